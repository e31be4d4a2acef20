"""Dose and response of results that exist: what ``eval`` and ``fidelity`` wrote, by level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation import guard
from hetero_plugin.evaluation.dose.curve import fit, lost_at, parabola, parabola_at, response
from hetero_plugin.evaluation.fidelity.panel import LEAST_WINDOWS
from hetero_plugin.evaluation.fidelity.resample import Resamples

LEAST_LEVELS = 5
DELTA = 0.02
RESAMPLES = 1000
POINTS = 60  # of a drawn curve
MISFIT = 3.0  # standard errors between a level and the curve, from which on it is said
EACH = 64 * 1024 * 1024  # bytes of resampling weights at a time


def of_accuracy(
    document: Mapping[str, Any], delta: float = DELTA, seed: int = 0
) -> dict[str, Any] | None:
    """The fitted fall of accuracy, and the level at which it has lost ``delta``.

    The interval and the band are 95 %, by a bootstrap over questions, all levels of a question
    together; of one draw of the error, as the results are.

    Args:
        document: an evaluation's results.
        delta: a share; 0.02 is two points.
        seed: of the bootstrap.

    Returns:
        ``level`` with ``value``, ``low``, ``high``, each None where it lies beyond the largest
        level, or ``below`` the smallest over 0; ``points``, ``curve`` with its band, ``misfit``,
        ``against`` (reasons why no level is given) and ``sentence``. None where there are fewer
        than 5 levels or none of them is 0.

    Raises:
        ConfigError: a bad ``delta``.
    """
    if not 0 < delta < 1:
        raise ConfigError(
            f"delta {delta:g}: a loss of accuracy lies between 0 and 1 (0.02: 2 points)"
        )
    rows = sorted(document["levels"], key=lambda row: float(row["level"]))
    if len(rows) < LEAST_LEVELS or rows[0]["level"] != 0:
        return None
    chance = float(document["header"].get("chance") or 0.0)
    levels = np.array([float(row["level"]) for row in rows])
    answers = np.array([row["outcomes"] for row in rows], dtype=float).T  # [n, L]
    n = len(answers)
    against = list(
        dict.fromkeys(
            reason
            for row in rows[1:]
            for reason in guard.pair_reasons(rows[0], row, margin=delta, chance=chance)
        )
    )
    best = fit(levels, answers.mean(0)[None], n, chance)
    drawn = fit(levels, _resampled(answers, seed), n, chance)
    scales = np.concatenate([[0.0], np.geomspace(levels[1] / 2, levels[-1], POINTS)])
    fitted = response(best, levels, chance)[0]
    errors = np.sqrt(np.maximum(fitted * (1 - fitted), 0.25 / n) / n)
    found = _document(
        kind="accuracy",
        delta=delta,
        levels=levels,
        scales=scales,
        curve=response(best, scales, chance)[0],
        band=response(drawn, scales, chance),
        roots=lost_at(drawn, delta, chance),
        root=float(lost_at(best, delta, chance)[0]),
        against=against,
    )
    found["points"] = [{"level": row["level"], **_share(row["accuracy"])} for row in rows]
    found["misfit"] = float(np.abs((answers.mean(0) - fitted) / errors).max())
    found["sentence"] = _sentence(found, f"{100 * delta:g} points of accuracy are lost")
    return found


def of_kl(document: Mapping[str, Any], want: float, seed: int = 0) -> dict[str, Any] | None:
    """The fitted growth of KL, and the level at which it has reached ``want``.

    Args:
        document: what ``fidelity`` wrote.
        want: nats a token.
        seed: of the bootstrap, over windows of text.

    Returns:
        As ``of_accuracy``. None where fewer than 5 levels are above the floor.

    Raises:
        ConfigError: a bad ``want``, or a file without what each window had.
    """
    if not 0 < want < float("inf"):
        raise ConfigError(f"kl {want:g}: it should be a finite number over 0")
    tokens = _tokens(document)
    floor = document["floor"]["measures"]["kl_mean"]
    floor_high = floor["value"] if floor["high"] is None else floor["high"]
    every = sorted(document["levels"], key=lambda row: float(row["level"]))
    rows = [row for row in every if row["measures"]["kl_mean"]["value"] > floor_high]
    if len(rows) < LEAST_LEVELS:
        return None
    resamples = Resamples(np.array(tokens, dtype=float), 1, seed)
    levels = np.array([float(row["level"]) for row in rows])
    sums = [np.array(row["kl_by_window"], dtype=float)[None] for row in rows]
    values = np.array([[resamples.value(one) for one in sums]])
    drawn_values = np.stack([resamples.values(one) for one in sums], axis=1)
    best, drawn = parabola(levels, values), parabola(levels, drawn_values)
    scales = np.geomspace(levels[0], levels[-1], 4 * POINTS)
    curve, band = parabola_at(best, scales), parabola_at(drawn, scales)
    found = _document(
        kind="kl",
        delta=want,
        levels=levels,
        scales=scales,
        curve=curve[0],
        band=band,
        roots=_reached(scales, band, want),
        root=float(_reached(scales, curve, want)[0]),
        against=[]
        if want > floor_high
        else [f"a KL of {want:g} is within the floor, {floor_high:.3g}"],
    )
    found["points"] = [
        {"level": row["level"], **resamples.interval(one)}
        for row, one in zip(rows, sums, strict=True)
    ]
    errors = np.maximum(drawn_values.std(0), 1e-300)
    fitted = parabola_at(best, levels)[0]
    found["misfit"] = float(np.abs((values[0] - fitted) / errors).max())
    found["left_out"] = len(every) - len(rows)
    found["sentence"] = _sentence(found, f"KL has reached {want:g}")
    return found


def _tokens(document: Mapping[str, Any]) -> list[int]:
    """How many tokens each window has, of results that tell the KL of each."""
    tokens = document.get("tokens_by_window")
    if tokens is None or any("kl_by_window" not in row for row in document["levels"]):
        raise ConfigError(
            "the fidelity results lack kl_by_window, which an interval needs: they were made "
            "before it was written; measure again"
        )
    if len(tokens) < LEAST_WINDOWS:
        raise ConfigError(
            f"the fidelity results have {len(tokens)} windows of text; an interval needs "
            f"{LEAST_WINDOWS}"
        )
    return tokens


def _resampled(answers: np.ndarray, seed: int) -> np.ndarray:
    """Shares of right answers [RESAMPLES, L] of questions drawn again."""
    rng = np.random.default_rng(seed)
    n = len(answers)
    parts, left = [], RESAMPLES
    while left:
        some = min(left, max(1, EACH // (8 * n)))
        parts.append(rng.multinomial(n, np.full(n, 1 / n), size=some) @ answers / n)
        left -= some
    return np.concatenate(parts)


def _reached(scales: np.ndarray, curves: np.ndarray, want: float) -> np.ndarray:
    """The first scale [R] at which curves [R, K] are at ``want``; 0: before, inf: beyond them."""
    found = []
    for curve in curves:
        at = np.flatnonzero(curve >= want)
        if not len(at):
            found.append(np.inf)
        elif at[0] == 0:
            found.append(0.0)
        else:
            two = slice(at[0] - 1, at[0] + 1)
            found.append(np.exp(np.interp(want, curve[two], np.log(scales[two]))))
    return np.array(found)


def _document(
    *,
    kind: str,
    delta: float,
    levels: np.ndarray,
    scales: np.ndarray,
    curve: np.ndarray,
    band: np.ndarray,
    roots: np.ndarray,
    root: float,
    against: Sequence[str],
) -> dict[str, Any]:
    low, high = np.quantile(roots, [0.025, 0.975], method="nearest")
    # Between clean and the smallest level nothing was seen: a curve there is its formula's.
    least = levels[levels > 0].min()
    ends = {"value": root, "low": float(low), "high": float(high)}
    level = {k: v if least < v <= levels[-1] else None for k, v in ends.items()}
    # Where nothing is known of one side, the words have to say which.
    below = {k: bool(v <= least) for k, v in ends.items()}
    bottom, top = np.quantile(band, [0.025, 0.975], axis=0)
    return {
        "kind": kind,
        "delta": delta,
        "least": float(least),
        "largest": float(levels[-1]),
        "levels": len(levels),
        "level": None if against else level,
        "below": below,
        "against": list(against),
        "curve": {
            "scale": scales.tolist(),
            "value": curve.tolist(),
            "low": bottom.tolist(),
            "high": top.tolist(),
        },
    }


def _sentence(found: Mapping[str, Any], what: str) -> str:
    if found["level"] is None:
        return f"no level is given at which {what}: {'; '.join(found['against'])}"

    def said(key: str) -> str:
        value = found["level"][key]
        if value is not None:
            return f"of {100 * value:.3g} %" if key == "value" else f"{100 * value:.3g} %"
        edge, word = ("least", "under") if found["below"][key] else ("largest", "over")
        return f"{word} {100 * found[edge]:g} %"

    text = f"{what} at an error {said('value')}"
    if not said("value") == said("low") == said("high"):
        text += f" (95 %: {said('low')} to {said('high')})"
    if found["misfit"] > MISFIT:
        text += (
            f"; the curve misses a level by {found['misfit']:.1f} standard errors, so read the "
            "levels themselves"
        )
    return text


def _share(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("value", "low", "high")}
