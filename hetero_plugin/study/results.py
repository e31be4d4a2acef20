"""What a study found, from its runs' own files: over seeds, draws of the error and questions."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_plugin.evaluation import guard, power, results, stats, variance
from hetero_plugin.evaluation.report import words
from hetero_plugin.study import evidence, summary
from hetero_plugin.study.resolve import Resolved
from hetero_plugin.study.schema import Evaluation

__all__ = ["FORMAT", "assemble"]

FORMAT = 1
Documents = dict[tuple[str, int], dict[str, Any]]
"""Evaluations of one step and specification, by arm and training seed."""


def assemble(runs: Sequence[Resolved]) -> dict[str, Any]:
    """The study's report as JSON data.

    Args:
        runs: of one study at one place. What is not finished is named and left out; so is an
            evaluation without proof of its error, and one that is not the study's as it reads now.

    Raises:
        ResultError: an evaluation or a run's summary can't be read.
        ConfigError: a run's metrics can't be read.
    """
    study, first = runs[0].study, runs[0]
    wanted = first.evaluation
    report: dict[str, Any] = {
        "format": FORMAT,
        "title": f"Study {study.name}",
        "about": study.about.strip(),
        "differs": dict(study.differs),
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "where": first.where,
        "size": first.size,
        "seeds": sorted({run.seed for run in runs}),
        "draws": wanted.draws,
        "steps": first.steps,
        "margin": wanted.margin,
        "arms": {run.arm: {"about": study.arm(run.arm).about} for run in runs},
        "missing": [],
        "unfinished": [],
        "refused": [],
        "versions": {},
        "panels": [],
    }
    for step in study.checkpoints(first.steps):
        for under in wanted.under:
            documents = dict(_documents(runs, step, under, report))
            report["unfinished"] += _unfinished(runs, step, under, report["missing"])
            if documents:
                panel = _panel(documents, wanted, report["seeds"])
                report["panels"].append({"step": step, "under": Path(under).stem, **panel})
    _judge(report)
    report["not_finite"] = []
    report["training"] = _training(runs, report["not_finite"])
    measured = {arm for row in report["training"] for arm in row["values"]}
    report["trained"] = [arm for arm in report["arms"] if arm in measured]
    report["runs"] = [row for run in runs if (row := _run(run)) is not None]
    refused = "INCOMPLETE" if report["panels"] else "REFUSED"
    report["status"] = refused if report["refused"] else "ATTESTED"
    report["headlines"] = _headlines(report)
    report["limits"] = _limits(report)
    return report


def _documents(
    runs: Sequence[Resolved], step: int, under: str, report: dict[str, Any]
) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
    for run in runs:
        path, wanted = run.evaluated_at(step, under), run.evaluation
        document = results.load(path) if path.is_file() else None
        if document is None or any(
            results.pass_row(document, level, draw) is None
            for level in wanted.levels
            for draw in range(wanted.draws if level else 1)
        ):
            report["missing"].append(_named(run, step, under))
            continue
        problems = results.problems(document)
        problems += evidence.problems(run, step, under, document["header"])
        if problems:
            shown = str(path.relative_to(run.study.output.absolute()))
            report["refused"] += [{"file": shown, "problem": one} for one in problems]
            continue
        for session in document["sessions"]:
            report["versions"] |= session.get("versions") or {}
        yield (run.arm, run.seed), document


def _named(run: Resolved, step: int, under: str) -> str:
    return f"{run.arm}/seed-{run.seed}, step {step}, {Path(under).stem}"


def _unfinished(
    runs: Sequence[Resolved], step: int, under: str, missing: Sequence[str]
) -> list[str]:
    """Missing evaluations of a step, a line for all arms that lack the same seeds."""
    lacking: dict[str, list[str]] = {}
    for run in runs:
        if _named(run, step, under) in missing:
            lacking.setdefault(run.arm, []).append(str(run.seed))
    together: dict[str, list[str]] = {}
    for arm, seeds in lacking.items():
        together.setdefault(", ".join(seeds), []).append(arm)
    return [
        f"{', '.join(arms)} (training seeds {seeds}; step {step}, {Path(under).stem})"
        for seeds, arms in together.items()
    ]


def _panel(documents: Documents, wanted: Evaluation, planned: Sequence[int]) -> dict[str, Any]:
    """Accuracies and contrasts of a step; ``planned``: the training seeds of the whole study."""
    first, draws = next(iter(documents.values())), wanted.draws
    levels = sorted(wanted.levels)
    arms = list(dict.fromkeys(arm for arm, _ in documents))
    panel: dict[str, Any] = {
        "levels": levels,
        "n": first["header"]["n"],
        "scorer": first["header"].get("scorer"),
        "accuracy": {},
        "contrasts": [],
        "unpaired": [],
    }
    for arm in arms:
        seeds = _seeds(documents, arm)
        outcomes = [_outcomes(documents, arm, seeds, level, draws) for level in levels]
        panel["accuracy"][arm] = [
            {"level": level, **variance.crossed(y, within=(0.0, 1.0)).to_dict()}
            for level, y in zip(levels, outcomes, strict=True)
        ]
    without: list[str] = []
    for one, two in wanted.contrasts:
        seeds, margin = _seeds(documents, one, two), wanted.margin
        if seeds:
            rows = [_contrast(documents, one, two, seeds, level, margin, draws) for level in levels]
            panel["contrasts"] += rows
        if others := [name for name in (one, two) if "/" in name]:
            why = f"not compared here: {others[0]} is of another study"
        elif not seeds:
            without.append(f"{two} against {one}")
            continue
        elif len(seeds) < len(planned):
            why = (
                f"over training seeds {', '.join(map(str, seeds))} alone, of "
                f"{', '.join(map(str, planned))}: the others lack one of the two"
            )
        else:
            continue
        panel["unpaired"].append(f"{two} against {one}: {why}")
    if without:
        why = "there is no training seed of which both are evaluated"
        panel["unpaired"].append(f"{', '.join(without)}: not compared: {why}")
    return panel


def _seeds(documents: Documents, *arms: str) -> list[int]:
    """Training seeds that all the arms have."""
    seeds = sorted({seed for _, seed in documents})
    return [seed for seed in seeds if all((arm, seed) in documents for arm in arms)]


def _rows(
    documents: Documents, arm: str, seed: int, level: float, draws: int
) -> list[dict[str, Any]]:
    """The answers in each draw of a level; without error there is but one."""
    found = [
        results.pass_row(documents[arm, seed], level, draw) for draw in range(draws if level else 1)
    ]
    return [row for row in found if row is not None]


def _outcomes(documents: Documents, arm: str, seeds: Sequence[int], level: float, d: int) -> Any:
    """1 for right and 0 for wrong: [seeds, draws, questions]."""
    return variance.stacked(
        [[row["outcomes"] for row in _rows(documents, arm, seed, level, d)] for seed in seeds]
    )


def _contrast(
    documents: Documents,
    one: str,
    two: str,
    seeds: Sequence[int],
    level: float,
    margin: float,
    draws: int,
) -> dict[str, Any]:
    """Second less first at a level, paired by seed, draw and question."""
    y = _outcomes(documents, two, seeds, level, draws)
    y = y - _outcomes(documents, one, seeds, level, draws)
    against: list[str] = []
    old = dict.fromkeys(power.LEGACY_WORDS, 0)
    for seed in seeds:
        results.check_comparable(documents[one, seed], documents[two, seed])
        chance = max(documents[arm, seed]["header"].get("chance") or 0.0 for arm in (one, two))
        names = (f"{one}'s answers (seed {seed})", f"{two}'s answers (seed {seed})")
        pairs = list(
            zip(
                _rows(documents, one, seed, level, draws),
                _rows(documents, two, seed, level, draws),
                strict=True,
            )
        )
        if pairs:
            old[power.legacy(*(row["outcomes"] for row in pairs[0])).word] += 1
        for first, second in pairs:
            against += guard.pair_reasons(first, second, margin=margin, chance=chance, names=names)
    return {
        "first": one,
        "second": two,
        "level": level,
        **variance.crossed(y).to_dict(),
        "equivalence": variance.crossed(y, 0.9).to_dict(),
        "legacy": {word: count for word, count in old.items() if count},
        "no_verdict": list(dict.fromkeys(against)),
    }


def _judge(report: dict[str, Any]) -> None:
    """Adjusted p values and verdicts, over every declared contrast of the report."""
    rows = [row for panel in report["panels"] for row in panel["contrasts"]]
    report["declared"] = len(rows)
    for row, p in zip(rows, stats.holm([row["p"] for row in rows]), strict=True):
        equal = row["equivalence"]
        row["p_adjusted"] = p
        row["verdict"] = (
            "NO VERDICT"
            if row["no_verdict"]
            else variance.word(row["value"], equal["low"], equal["high"], report["margin"], p)
        )


_MEASURED = {
    "critic/rewards/mean": "reward",
    "hetero/rollout_actor_logprob_gap/mean": "mean |Δ log-prob|, rollout to actor",
    "rollout_corr/kl": "KL(rollout ‖ actor), nats a token",
    "rollout_corr/chi2_token": "χ² of the ratios, by token",
    "rollout_corr/rollout_is_mean": "mean importance weight",
    "rollout_corr/rollout_is_ratio_fraction_high": "weights cut at the threshold",
    "rollout_corr/rollout_rs_masked_fraction": "tokens rejected",
    "actor/pg_clipfrac": "ratios clipped by PPO",
    "actor/entropy": "entropy, nats a token",
    "actor/grad_norm": "norm of the gradient",
}


def _training(runs: Sequence[Resolved], odd: list[str]) -> list[dict[str, Any]]:
    """What verl logged, the mean of the last quarter of the steps and over seeds, by arm.

    Of runs that have made all their steps: the last quarter of another is not that of the training.
    What is no finite number is left out, and told in ``odd``.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        metrics = summary.metrics_of(run.folder)
        steps = [step for step in metrics if step > 0]
        if max(steps, default=0) < run.steps:
            continue
        for name in _MEASURED:
            logged = {step: metrics[step][name] for step in steps if name in metrics[step]}
            values = [float(value) for value in logged.values() if _finite(value)]
            if left := [step for step, value in logged.items() if not _finite(value)]:
                shown = ", ".join(map(str, left[:5])) + (", ..." if len(left) > 5 else "")
                odd.append(
                    f"{run.arm}/seed-{run.seed}: {name} is no finite number at {len(left)} of "
                    f"{len(logged)} steps ({shown}); they are left out of its mean."
                )
            if values:
                last = values[-max(1, len(values) // 4) :]
                found.setdefault(name, {}).setdefault(run.arm, []).append(sum(last) / len(last))
    return [
        {
            "metric": name,
            "label": _MEASURED[name],
            "values": {arm: sum(v) / len(v) for arm, v in found[name].items()},
        }
        for name in _MEASURED
        if name in found
    ]


def _finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _run(run: Resolved) -> dict[str, Any] | None:
    path = run.folder / summary.NAME
    if not path.is_file():
        return None
    try:
        return _row(run, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise results.ResultError(
            f"{path}: not the summary of a run ({type(error).__name__}: {error}). Put back what "
            "its training wrote, or remove it: the report then says nothing of that run's training."
        ) from None


def _row(run: Resolved, data: Mapping[str, Any]) -> dict[str, Any]:
    reward = list(data["reward"].values())
    passed = [one["when"] for one in data["attested"] if one["passed"]]
    return {
        "name": f"{run.arm}/seed-{run.seed}",
        "fingerprint": data["asked"]["fingerprint"],
        "attested": ", ".join(sorted(passed)) or "no error to attest",
        "reward": f"{reward[0]:.2f}, {reward[-1]:.2f}" if reward else "",
        "seconds": round(data["seconds"]["this attempt"]),
    }


def _headlines(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for panel in report["panels"]:
        where = f"step {panel['step']}, {panel['under']}"
        for row in panel["contrasts"]:
            found = f"{words.points(row['value'])} points {words.interval(row)}"
            lines.append(
                f"{row['second']} against {row['first']}, evaluated at "
                f"{words.level(row['level'])} ({where}): {found}, "
                f"{words.p_value(row['p_adjusted'])}. {row['verdict']}."
            )
    return lines


def _limits(report: Mapping[str, Any]) -> list[str]:
    seeds = max(
        (row["seeds"] for panel in report["panels"] for rows in panel["accuracy"].values()
         for row in rows),
        default=0,
    )  # fmt: skip
    lines = [
        "Comparisons that were not declared are exploration: the table of accuracies invites many, "
        "and some of them differ by chance."
    ]
    for panel in report["panels"]:
        where = f"Step {panel['step']}, {panel['under']}"
        lines += [f"{where}: {line}." for line in panel["unpaired"]]
    lines += report["not_finite"]
    if seeds == 1:
        lines.append(
            "One training seed: the intervals are about these checkpoints, and say nothing of what "
            "another training would give."
        )
    elif 0 < seeds < 5:
        lines.append(
            f"{seeds} training seeds: an interval over so few is wide, and rightly so; five halve "
            "the factor of three."
        )
    if report["size"] == "miniature":
        lines.append(
            "The model is a miniature that adds numbers; of larger ones this says nothing."
        )
    return lines
