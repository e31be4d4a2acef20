"""Seed-matched samples as a detector: how many of 300 sampled tokens agree with the clean model's.

At each token of a text both models, having read the same text, draw the next token with the same
random numbers. A model that answered freely would go on from the first token that differs, and all
after it would tell of that one; here each token is a trial of its own. (The idea of matching seeds
is of DiFR, arXiv 2511.20621.)

A detector that sees so many tokens counts those that differ, and raises an alarm at a number that
the clean model in other batches hardly ever has. What it finds of noisy ones is its power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hetero_plugin.evaluation.fidelity.panel import DRAWS, LEAST_WINDOWS, Rows

TOKENS = 300  # that the detector sees
FALSE_ALARMS = 0.01  # the largest share of clean runs of tokens that it may call noisy
SAME = "same_sample"
"""The quantity of a token (`attestation.sampling.same_sample`)."""


def summarise(
    noisy: Sequence[Rows], floor: Sequence[Rows], *, seed: int = 0, draws: int = DRAWS
) -> dict[str, Any]:
    """What seed-matched samples say of some windows of text.

    Args:
        noisy: rows with ``same_sample`` of each window, noisy against clean.
        floor: of the same windows, clean against clean in other batches.
        seed: of the bootstrap over windows.
        draws: of the bootstrap.

    Returns:
        ``agree``, the share of tokens that are equal, ``of_300``, and ``tokens_to_first``, the mean
        number of tokens up to the first that differs (None where none does), each with ``value``,
        ``low`` and ``high`` (95 %; None under 8 windows). ``detector``: None under 300 tokens, else
        ``threshold`` (so many that differ are an alarm), ``false_alarms`` and ``rate``, the shares
        of runs of 300 tokens of the floor and of the noisy model that reach it, ``auc``, the
        probability that a noisy run has more that differ than a clean one (ties count half), and
        ``runs``, how many there are that share no token.

    Raises:
        ValueError: no window, or other windows than the floor's.
    """
    differ, clean = ([1.0 - row[SAME] for row in rows] for rows in (noisy, floor))
    if not differ or [len(one) for one in differ] != [len(one) for one in clean]:
        raise ValueError(f"{len(differ)} windows, and {len(clean)} of the floor: they should be "
                         "the same, and one at least")  # fmt: skip
    tokens = sum(map(len, differ))
    enough = tokens >= TOKENS
    values = _values(differ, clean, enough)
    bounds: dict[str, list[float]] = {name: [] for name in values}
    if len(differ) >= LEAST_WINDOWS:
        rng = np.random.default_rng(seed)
        for _ in range(draws):
            chosen = rng.integers(0, len(differ), len(differ))
            again = _values([differ[i] for i in chosen], [clean[i] for i in chosen], enough)
            for name, value in again.items():
                bounds[name].append(value)
    found = {name: _bounded(value, bounds[name]) for name, value in values.items()}
    detector = None
    if enough:
        threshold = _threshold(_runs(clean))
        detector = {
            "tokens": TOKENS,
            "runs": tokens // TOKENS,
            "threshold": threshold,
            "asked": FALSE_ALARMS,
            "false_alarms": float(np.mean(_runs(clean) >= threshold)),
            "rate": found.pop("rate"),
            "auc": found.pop("auc"),
        }
    return {**found, "detector": detector}


def agreement(floor: Sequence[Rows], *, seed: int = 0) -> dict[str, Any]:
    """The floor of ``agree`` and the others: clean against clean, with no detector."""
    found = summarise(floor, floor, seed=seed)
    return {**found, "detector": None}


def _values(
    differ: Sequence[np.ndarray], clean: Sequence[np.ndarray], enough: bool
) -> dict[str, float]:
    share = float(np.concatenate(differ).mean())
    found = {
        "agree": 1.0 - share,
        "of_300": TOKENS * (1.0 - share),
        "tokens_to_first": _to_first(differ),
    }
    if enough:
        runs, floor = _runs(differ), _runs(clean)
        found["rate"] = float(np.mean(runs >= _threshold(floor))) if len(runs) else np.nan
        found["auc"] = _auc(runs, floor) if len(runs) else np.nan
    return found


def _to_first(differ: Sequence[np.ndarray]) -> float:
    """Tokens read up to and with each window's first that differs, over windows that have one."""
    seen = sum(int(one.argmax()) + 1 if one.any() else len(one) for one in differ)
    first = sum(bool(one.any()) for one in differ)
    return seen / first if first else np.inf


def _runs(differ: Sequence[np.ndarray]) -> np.ndarray:
    """How many differ in each run of 300 neighbouring tokens of the text."""
    total = np.concatenate([[0.0], np.cumsum(np.concatenate(differ))])
    return np.asarray(total[TOKENS:] - total[:-TOKENS])


def _threshold(floor: np.ndarray) -> int:
    """The smallest number of tokens that at most 1 % of clean runs reach."""
    top = int(floor.max()) + 1 if len(floor) else 1
    return next(k for k in range(1, top + 1) if np.mean(floor >= k) <= FALSE_ALARMS)


def _auc(noisy: np.ndarray, clean: np.ndarray) -> float:
    ordered = np.sort(clean)
    less = np.searchsorted(ordered, noisy, side="left")
    ties = np.searchsorted(ordered, noisy, side="right") - less
    return float((less + 0.5 * ties).mean() / len(ordered))


def _bounded(value: float, again: Sequence[float]) -> dict[str, Any]:
    """A value with its interval; None where there is none, or no bound."""
    usable = [x for x in again if not np.isnan(x)]
    ends = np.quantile(usable, [0.025, 0.975], method="nearest") if usable else [np.nan, np.nan]
    names = ("value", "low", "high")
    return {
        name: float(x) if np.isfinite(x) else None
        for name, x in zip(names, (value, *ends), strict=True)
    }


def sentence(found: Mapping[str, Any]) -> str:
    """What `summarise` found, in words."""
    agree, first, detector = found["of_300"], found["tokens_to_first"], found["detector"]
    text = f"{_span(agree, '.1f')} of {TOKENS} tokens agree"
    if first["value"] is not None:
        text += f", the first that differs comes after {_span(first, '.0f')}"
    if detector is None:
        return text
    return (
        f"{text}; an alarm at {detector['threshold']} that differ finds "
        f"{_span(detector['rate'], '.0%')} of runs of {TOKENS} tokens, at "
        f"{detector['false_alarms']:.1%} false alarms among clean ones "
        f"({detector['runs']} runs share no token); AUC {_span(detector['auc'], '.3f')}"
    )


def _span(row: Mapping[str, Any], digits: str) -> str:
    value = format(row["value"], digits)
    if row["low"] is None:
        return value
    high = "∞" if row["high"] is None else format(row["high"], digits)
    return f"{value} [{row['low']:{digits}}, {high}]"
