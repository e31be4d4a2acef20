"""Where the variance of an accuracy comes from, and the floor of every comparison (A/A)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hetero_plugin.evaluation import results, variance
from hetero_plugin.evaluation.report import words

_SEED = re.compile(r"[._-]?seed[._-]?(\d+)")
Documents = Mapping[str, Mapping[str, Any]]


def floors(documents: Documents, margin: float) -> dict[str, dict[str, Any]]:
    """Clean against clean in another order and smaller batches, of the results that have it.

    Returns:
        Name -> what ``results.paired`` says, with a ``sentence``.
    """
    found = {}
    for name, document in documents.items():
        clean, again = results.level_row(document, 0.0), document.get("control")
        if clean is None or not again:
            continue
        row = results.paired(clean, again, margin)
        flips = row["only_first"] + row["only_second"]
        texts = row.get("changed_texts")
        row["sentence"] = (
            f"{name}: clean against clean in another order and batch size, {flips} of "
            f"{row['n']:,} outcomes differ ({words.points(row['difference'])} points)"
            + ("" if texts is None else f", {words.percent(texts)} of texts")
        )
        found[name] = row
    return found


def arm_of(name: str) -> str:
    """A result's name without its training seed: ``aqn.seed-3`` -> ``aqn``."""
    return _SEED.sub("", name).strip("._-") or name


def table(documents: Documents) -> list[dict[str, Any]]:
    """Accuracies, and differences from clean, over training seeds, draws and samples.

    Results whose names differ in ``seed-N`` alone are training seeds of one arm.

    Returns:
        Of each arm that has more than one seed, draw or sample, and each level: ``arm``,
        ``level``, ``of`` (``accuracy`` or ``difference``), what ``variance.crossed`` says, and a
        ``sentence``. Draws and samples that one seed lacks are left out of all.
    """
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for name, document in documents.items():
        arms.setdefault(arm_of(name), []).append(document)
    rows = []
    for arm, runs in arms.items():
        clean = _outcomes(runs, 0.0)
        for level in sorted({row["level"] for run in runs for row in run["levels"]}):
            values = _outcomes(runs, level)
            if values is None or values[..., 0].size == 1 or values.shape[3] < 2:
                continue
            rows.append(_row(arm, level, "accuracy", values))
            if level and clean is not None:
                same = min(values.shape[2], clean.shape[2])
                rows.append(
                    _row(arm, level, "difference", values[:, :, :same] - clean[:, :, :same])
                )
    return rows


def _outcomes(runs: list[Mapping[str, Any]], level: float) -> np.ndarray | None:
    """[M, D, S, Q] of a level; None where a run lacks it."""
    kept: set[tuple[int, int]] | None = None
    found: list[dict[tuple[int, int], list[int]]] = []
    for run in runs:
        first = results.level_row(run, level)
        if first is None:
            return None
        own = {(0, 0): first["outcomes"]}
        for row in run.get("draws") or []:
            if row["level"] == level:
                own[row["draw"], row["sample"]] = row["outcomes"]
        found.append(own)
        kept = set(own) if kept is None else kept & set(own)
    draws = sorted({draw for draw, _ in kept or ()})
    samples = sorted({sample for _, sample in kept or ()})
    draws = [d for d in draws if all((d, s) in (kept or ()) for s in samples)]
    return np.array([[[own[d, s] for s in samples] for d in draws] for own in found], dtype=float)


def _row(arm: str, level: float, of: str, values: np.ndarray) -> dict[str, Any]:
    within = (0.0, 1.0) if of == "accuracy" else (-1.0, 1.0)
    found = variance.crossed(np.moveaxis(values, 2, 3), within=within).to_dict()
    counts = dict(zip(("training seeds", "noise draws", "sampled answers", "questions"),
                      values.shape, strict=True))  # fmt: skip
    fixed = [name for name, count in counts.items() if count == 1]
    if values.min() == values.max():  # at the floor: that tells no variance
        found["low"] = found["high"] = None
    signed = words.points if of == "difference" else _plain
    shares = ", ".join(
        f"{name} {100 * share:.0f} %"
        for name, share in sorted(found["shares"].items(), key=lambda one: -one[1])
        if share >= 0.005
    )
    what = "points from clean" if of == "difference" else "% right"
    sentence = (
        f"{arm} at {words.level(level)}: {signed(found['value'])} {what} "
        f"{_bounds(found, signed)} over {_counted(counts)}"
        + (f"; of the variance: {shares}" if shares and found["low"] is not None else "")
    )
    if fixed:
        sentence += f"; for this one of: {', '.join(fixed)}"
    return {"arm": arm, "level": level, "of": of, **found, "counts": counts, "sentence": sentence}


def _plain(value: float) -> str:
    return f"{100 * value:.1f}"


def _bounds(found: Mapping[str, Any], signed: Callable[[float], str]) -> str:
    if found["low"] is None:
        return "(all outcomes are alike: no interval)"
    return f"[{signed(found['low'])}, {signed(found['high'])}]"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count > 1)
