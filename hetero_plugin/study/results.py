"""What a study found, from its runs' own files: over seeds, draws of the error and questions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_plugin.evaluation import guard, results, stats, variance
from hetero_plugin.evaluation.report import words
from hetero_plugin.study import summary
from hetero_plugin.study.resolve import Resolved

__all__ = ["FORMAT", "assemble"]

FORMAT = 1
Documents = dict[tuple[str, int, int], dict[str, Any]]
"""Evaluations of one step and specification, by arm, training seed and seed of the error."""


def assemble(runs: Sequence[Resolved]) -> dict[str, Any]:
    """The study's report as JSON data.

    Args:
        runs: of one study at one place. What is not finished is named and left out; so is an
            evaluation without proof of its error.

    Raises:
        ResultError: an evaluation can't be read.
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
        "noise_seeds": list(wanted.noise_seeds),
        "steps": first.steps,
        "margin": wanted.margin,
        "arms": {run.arm: {"about": study.arm(run.arm).about} for run in runs},
        "missing": [],
        "refused": [],
        "versions": {},
        "panels": [],
    }
    for step in study.checkpoints(first.steps):
        for under in wanted.under:
            documents = dict(_documents(runs, step, under, report))
            if documents:
                panel = _panel(documents, wanted.contrasts, wanted.margin)
                report["panels"].append({"step": step, "under": Path(under).stem, **panel})
    _judge(report)
    report["runs"] = [row for run in runs if (row := _run(run)) is not None]
    report["status"] = "ATTESTED" if report["panels"] and not report["refused"] else "REFUSED"
    report["headlines"] = _headlines(report)
    report["limits"] = _limits(report)
    return report


def _documents(
    runs: Sequence[Resolved], step: int, under: str, report: dict[str, Any]
) -> Iterator[tuple[tuple[str, int, int], dict[str, Any]]]:
    for run in runs:
        for seed in run.evaluation.noise_seeds:
            path = run.evaluated_at(step, under, seed)
            name = f"{run.arm}/seed-{run.seed}, step {step}, {Path(under).stem}, draw {seed}"
            if not path.is_file():
                report["missing"].append(name)
                continue
            document = results.load(path)
            done = {row["level"] for row in document["levels"]}
            if not set(run.evaluation.levels) <= done:
                report["missing"].append(name)
                continue
            problems = results.problems(document)
            if problems:
                shown = str(path.relative_to(run.study.output.absolute()))
                report["refused"] += [{"file": shown, "problem": one} for one in problems]
                continue
            for session in document["sessions"]:
                report["versions"] |= session.get("versions") or {}
            yield (run.arm, run.seed, seed), document


def _panel(
    documents: Documents, contrasts: Sequence[tuple[str, str]], margin: float
) -> dict[str, Any]:
    first = next(iter(documents.values()))
    levels = [row["level"] for row in first["levels"]]
    arms = list(dict.fromkeys(arm for arm, _, _ in documents))
    panel: dict[str, Any] = {
        "levels": levels,
        "n": first["header"]["n"],
        "scorer": first["header"].get("scorer"),
        "accuracy": {},
        "contrasts": [],
    }
    for arm in arms:
        pairs = _whole(documents, arm)
        panel["accuracy"][arm] = [
            {"level": level, **variance.crossed(_outcomes(documents, arm, pairs, level)).to_dict()}
            for level in levels
        ]
    for one, two in contrasts:
        if one in arms and two in arms:
            panel["contrasts"] += _contrast(documents, one, two, levels, margin)
    return panel


def _whole(documents: Documents, *arms: str) -> list[tuple[int, list[int]]]:
    """Training seeds that all the arms have, each with the draws that all of them have."""
    seeds = sorted({seed for _, seed, _ in documents})
    there = {
        seed: [
            draw
            for draw in sorted({draw for _, _, draw in documents})
            if all((arm, seed, draw) in documents for arm in arms)
        ]
        for seed in seeds
    }
    most = max((len(draws) for draws in there.values()), default=0)
    return [(seed, draws) for seed, draws in there.items() if len(draws) == most and most]


def _outcomes(
    documents: Documents, arm: str, pairs: Sequence[tuple[int, list[int]]], level: float
) -> Any:
    """1 for right and 0 for wrong: [seeds, draws, questions]."""

    def row(seed: int, draw: int) -> list[float]:
        found = results.level_row(documents[arm, seed, draw], level)
        assert found is not None  # _documents has asked
        return list(found["outcomes"])

    return variance.stacked([[row(seed, draw) for draw in draws] for seed, draws in pairs])


def _contrast(
    documents: Documents, one: str, two: str, levels: Sequence[float], margin: float
) -> Iterator[dict[str, Any]]:
    """Second less first at each level, paired by seed, draw and question."""
    pairs = _whole(documents, one, two)
    if not pairs:
        return
    for level in levels:
        y = _outcomes(documents, two, pairs, level) - _outcomes(documents, one, pairs, level)
        against: list[str] = []
        for seed, draws in pairs:
            for draw in draws:
                rows = [documents[arm, seed, draw] for arm in (one, two)]
                results.check_comparable(*rows)
                found = [results.level_row(row, level) for row in rows]
                assert found[0] is not None and found[1] is not None
                names = (f"{one}'s answers (seed {seed})", f"{two}'s answers (seed {seed})")
                chance = max(row["header"].get("chance") or 0.0 for row in rows)
                against += guard.pair_reasons(
                    found[0], found[1], margin=margin, chance=chance, names=names
                )
        yield {
            "first": one,
            "second": two,
            "level": level,
            **variance.crossed(y).to_dict(),
            "equivalence": variance.crossed(y, 0.9).to_dict(),
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


def _run(run: Resolved) -> dict[str, Any] | None:
    path = run.folder / summary.NAME
    if not path.is_file():
        return None
    data: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
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
    if seeds == 1:
        lines.append(
            "One training seed: the intervals are about these checkpoints, and say nothing of what "
            "another training would give."
        )
    elif seeds < 5:
        lines.append(
            f"{seeds} training seeds: an interval over so few is wide, and rightly so; five halve "
            "the factor of three."
        )
    if report["size"] == "miniature":
        lines.append(
            "The model is a miniature that adds numbers; of larger ones this says nothing."
        )
    return lines
