"""What a result means, in sentences that claim no more than its statistics carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ALPHA = 0.05


def percent(value: float, digits: int = 1) -> str:
    """A fraction as a percentage: 0.7688 -> '76.9 %'."""
    return f"{100 * value:.{digits}f} %"


def points(value: float, digits: int = 1) -> str:
    """A difference of fractions in percentage points, signed, with a proper minus."""
    text = f"{100 * value:+.{digits}f}"
    return text.replace("-", "−")


def level(value: float) -> str:
    """A noise level in words: 'no error' or '5 % error'."""
    return f"{100 * value:g} % error" if value else "no error"


def interval(row: Mapping[str, Any], digits: int = 1) -> str:
    """The interval of a difference: '[−3.1, +0.4]'."""
    return f"[{points(row['low'], digits)}, {points(row['high'], digits)}]"


def p_value(p: float) -> str:
    """'p < 0.001' or 'p = 0.034'."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def verdict(row: Mapping[str, Any]) -> str:
    """One word for a paired comparison: decided by tests alone, never by the point estimate.

    'equivalent' and 'loss'/'gain' can both hold (a real but small difference); the test of
    equivalence, whose margin was fixed beforehand, then speaks of its size.
    """
    shown = row["p_adjusted"] < ALPHA
    direction = "gain" if row["difference"] > 0 else "loss"
    if row["equivalence"]["equivalent"]:
        return f"equivalent (small {direction})" if shown else "equivalent"
    return direction if shown else "undecided"


def within_sentence(label: str, row: Mapping[str, Any], margin: float) -> str:
    """A checkpoint under noise against itself without."""
    minimum = row["minimum_detectable"]
    head = (
        f"{label} at {level(row['level'])}: {points(row['difference'])} points "
        f"{interval(row)}, {p_value(row['p_adjusted'])}"
    )
    equal = row["equivalence"]
    if equal["equivalent"]:
        return (
            f"{head}. Within ±{100 * margin:g} points of its clean accuracy by the equivalence "
            f"test ({p_value(equal['p'])}): robust at this level, by the margin fixed beforehand."
        )
    if row["p_adjusted"] < ALPHA:
        word = "gain" if row["difference"] > 0 else "loss"
        return f"{head}. A {word} that these {row['n']:,} questions show."
    seen = (
        f"differences under {100 * minimum:.1f} points would mostly go unseen"
        if minimum is not None
        else "no difference could have been seen"
    )
    return (
        f"{head}. Neither a difference nor equivalence is shown; with {row['n']:,} questions, "
        f"{percent(row['discordance'])} of which changed, {seen}."
    )


def between_sentence(first: str, second: str, row: Mapping[str, Any]) -> str:
    """One checkpoint against another at a level."""
    head = (
        f"{second} against {first} at {level(row['level'])}: {points(row['difference'])} points "
        f"{interval(row)}, {p_value(row['p_adjusted'])}"
    )
    words = {
        "gain": f"{second} is better here.",
        "loss": f"{second} is worse here.",
        "equivalent": "Equivalent by the margin fixed beforehand.",
        "equivalent (small gain)": f"{second} is better by an amount within the margin.",
        "equivalent (small loss)": f"{second} is worse by an amount within the margin.",
    }
    return f"{head}. {words.get(verdict(row), 'Not decided by these questions.')}"


def headlines(report: Mapping[str, Any]) -> list[str]:
    """The page's first lines: what error costs each arm, which arm is robust, who is better."""
    rows, arms = report["comparisons"], report["arms"]
    lines = []
    for name, arm in arms.items():
        own = [row for row in rows if row["type"] == "noise" and row["first"] == name]
        clean = next((row for row in arm["levels"] if row["level"] == 0), None)
        if clean is None:
            continue
        costs = [
            f"{points(row['difference'])} points at {level(row['level'])} ({row['verdict']})"
            for row in own
        ]
        lines.append(
            f"{arm['label']}: {percent(clean['value'])} right without error"
            + (f"; {', '.join(costs)}." if costs else ".")
        )
    robust = [
        f"{arms[row['first']]['label']} at {level(row['level'])}"
        for row in rows
        if row["type"] == "noise" and row["equivalence"]["equivalent"]
    ]
    margin = f"±{100 * report['margin']:g} points"
    lines.append(
        f"Robust, that is equivalent to its own clean accuracy within {margin}: "
        + (
            ", ".join(robust)
            if robust
            else f"no arm at any level is shown to be, with n = {report['n']:,}"
        )
        + "."
    )
    top = max(report["levels"], default=0.0)
    base = report["baseline"]
    for row in rows:
        if row["type"] == "arms" and row["first"] == base and row["level"] == top:
            lines.append(row["sentence"])
    return lines


def limits(n: int, margin: float, discordance: float, seeds: Sequence[Any]) -> list[str]:
    """What this design can't show, whatever came out."""
    from hetero_plugin.evaluation import stats

    sentences = []
    psi = max(discordance, 1 / n)
    seen = stats.minimum_detectable_effect(n, psi)
    if seen < float("inf"):
        sentences.append(
            f"With {n:,} questions and {percent(psi)} of them changing between the systems "
            f"compared, a paired difference of {100 * seen:.1f} points is found with 80 % "
            f"probability; smaller ones mostly are not. To see 1 point would take "
            f"{stats.questions_needed(0.01, max(psi, 0.0101)):,} questions."
        )
    sentences.append(
        f"Calling two equal systems equivalent within ±{100 * margin:g} points takes "
        f"{stats.questions_for_equivalence(margin, psi):,} questions at that rate (80 % power)."
    )
    runs = len({str(seed) for seed in seeds if seed is not None})
    sentences.append(
        "Each arm was trained once"
        + (f", all with seed {seeds[0]}" if runs == 1 and seeds else "")
        + ": comparisons between arms concern these checkpoints. They don't show what another "
        "training seed would give, so they are no evidence that one method beats another."
    )
    sentences.append(
        "Each noise level was evaluated with one draw of the error, the same for every arm. "
        "p values are adjusted by Holm's method over all comparisons on this page."
    )
    return sentences
