"""What a result means, in sentences that claim no more than its statistics carry."""

from __future__ import annotations

from collections.abc import Mapping
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


def errors(spec: Mapping[str, Any] | None) -> str:
    """The error models of a specification, by their names: 'relative_gaussian'."""
    rules = (spec or {}).get("rules")
    kinds = {str(rule.get("error")) for rule in rules or () if rule.get("error")}
    return ", ".join(sorted(kinds)) or "not in the file"


def interval(row: Mapping[str, Any], digits: int = 1) -> str:
    """The interval of a difference: '[−3.1, +0.4]'."""
    return f"[{points(row['low'], digits)}, {points(row['high'], digits)}]"


def p_value(p: float) -> str:
    """'p < 0.001' or 'p = 0.034'."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def verdict(row: Mapping[str, Any]) -> str:
    """The verdict on a paired comparison: by tests alone, never by the point estimate.

    ``NO VERDICT`` where something stands against any; ``EQUIVALENT`` where the test of equivalence
    accepts, even if a small difference is shown; ``DEGRADED`` or ``IMPROVED`` where McNemar's
    adjusted test shows a difference; else ``UNDECIDED``.
    """
    if row.get("no_verdict"):
        return "NO VERDICT"
    if row["equivalence"]["equivalent"]:
        return "EQUIVALENT"
    if row["p_adjusted"] < ALPHA:
        return "IMPROVED" if row["difference"] > 0 else "DEGRADED"
    return "UNDECIDED"


def verdict_sentence(row: Mapping[str, Any], margin: float) -> str:
    """Why the verdict is what it is, and what would decide where it is none."""
    word, equal = verdict(row), row["equivalence"]
    if word == "NO VERDICT":
        return f"NO VERDICT: {'; '.join(row['no_verdict'])}."
    if word == "EQUIVALENT":
        small = ""
        if row["p_adjusted"] < ALPHA:
            direction = "gain" if row["difference"] > 0 else "loss"
            small = f"; a {direction} within the margin is shown"
        return (
            f"EQUIVALENT within ±{100 * margin:g} points, the margin fixed beforehand "
            f"({p_value(equal['p'])}){small}."
        )
    if word == "UNDECIDED":
        needed = row.get("questions_to_decide")
        more = (
            f"{needed:,} questions would decide, were the difference and the flips as observed"
            if needed is not None
            else "no number of questions would decide at the flips observed"
        )
        return f"UNDECIDED: neither a difference nor equivalence is shown; {more}."
    return f"{word}: {'a gain' if word == 'IMPROVED' else 'a loss'} is shown."


def _head(row: Mapping[str, Any]) -> str:
    return (
        f"{level(row['level'])}: {points(row['difference'])} points {interval(row)}, "
        f"{p_value(row['p_adjusted'])}"
    )


def within_sentence(label: str, row: Mapping[str, Any], margin: float) -> str:
    """A checkpoint under noise against itself without."""
    return f"{label} at {_head(row)}. {verdict_sentence(row, margin)}"


def between_sentence(first: str, second: str, row: Mapping[str, Any], margin: float) -> str:
    """One checkpoint against another at a level."""
    return f"{second} against {first} at {_head(row)}. {verdict_sentence(row, margin)}"


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
        if row["type"] == "noise" and row["verdict"] == "EQUIVALENT"
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


def limits(report: Mapping[str, Any]) -> list[str]:
    """What this design can't show, as far as its data say, whatever came out."""
    from hetero_plugin.evaluation import power

    rows, n, margin = report["comparisons"], report["n"], report["margin"]
    found = sorted(row["discordance"] for row in rows)
    psi = max(found[len(found) // 2] if found else 0.1, 1 / n)
    sentences = []
    seen = power.minimum_detectable_effect(n, psi)
    if seen < float("inf"):
        sentences.append(
            f"With {n:,} questions and {percent(psi)} of them changing between the systems "
            f"compared, a paired difference of {100 * seen:.1f} points is found with 80 % "
            f"probability; smaller ones mostly are not. To see 1 point would take "
            f"{power.questions_needed(0.01, max(psi, 0.0101)):,} questions."
        )
    sentences.append(
        f"Calling two equal systems equivalent within ±{100 * margin:g} points takes "
        f"{power.questions_for_equivalence(margin, psi):,} questions at that rate (80 % power)."
    )
    arms = report["arms"].values()
    counts = [row["counts"] for row in report.get("sources") or []]
    if len(report["arms"]) > 1 and all(row["training seeds"] == 1 for row in counts):
        sentences.append(_training(arms))
    several = [row["noise draws"] for row in counts if row["noise draws"] > 1]
    if several:
        sentences.append(
            f"The paired differences and their verdicts are of the first of {max(several)} draws "
            "of the error; the interval over all draws is under “Where the variance comes from”."
        )
    else:
        sentences.append(_draws(report))
    if len(rows) > 1:
        sentences.append(
            f"p values of McNemar's test are adjusted by Holm's method over the {len(rows)} "
            "comparisons of this page: each noisy level with its own clean answers, and each arm "
            "with the baseline. Each test of equivalence has its 5 % by itself."
        )
    return sentences


def _training(arms: Any) -> str:
    seeds = [arm["train"].get("seed") for arm in arms]
    if all(seed is not None for seed in seeds):
        kinds = sorted({str(seed) for seed in seeds})
        of = f"seed {kinds[0]} in all" if len(kinds) == 1 else f"seeds {', '.join(kinds)}"
        known = f"Each arm is one trained checkpoint ({of})"
    else:
        known = "Each arm is one checkpoint, of whose training these files don't tell the seed"
    return (
        f"{known}: comparisons between arms concern these checkpoints. They don't show what "
        "another training seed would give, so they are no evidence that one method beats another."
    )


def _draws(report: Mapping[str, Any]) -> str:
    seeds = {name: arm["noise_seed"] for name, arm in report["arms"].items()}
    kinds = set(seeds.values())
    one = "Each noise level was evaluated with one draw of the error"
    if None in kinds:
        return f"{one}, whose seed is not in every file; other draws may do otherwise."
    if len(kinds) == 1:
        same = ", the same for every arm" if len(seeds) > 1 else ""
        return f"{one} (seed {kinds.pop()}{same}); other draws may do otherwise."
    which = ", ".join(f"{seed} in {name}" for name, seed in seeds.items())
    return f"{one}, and not the same for every arm (seed {which})."
