"""Tables of a profile: the distribution of the difference in each bin, from counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hetero_plugin.errors.profile import Table
from hetero_plugin.profile.fit.counts import Counts

__all__ = ["LEAST", "SEEN", "binned", "log_score", "moments", "supported"]

LEAST = 200
"""Elements below which a bin takes its neighbours' as well."""
SEEN = 10
"""Times that a rare thing must have been seen for its probability to be known within a third."""
_MOST = 256
_ALONE = 16
"""Ulps up to which no two differences are put together."""

Values = list[int | tuple[int, int]]


def supported(elements: int) -> float:
    """The smallest probability that so many elements can tell."""
    return SEEN / max(elements, SEEN)


def binned(counts: Counts, bins: int) -> tuple[list[tuple[Values, list[float], int]], int]:
    """Each bin's values, their cumulative shares and the elements seen in that bin.

    A bin of fewer than `LEAST` elements has the distribution of the nearest bins together that hold
    as many; its number stays its own.

    Returns:
        The bins, and how many of them took their neighbours' too.

    Raises:
        ValueError: no elements.
    """
    if counts.total == 0:
        raise ValueError("no elements")
    own = counts.by_bin(bins).astype(int)
    found, widened = [], 0
    for at in range(bins):
        low = high = at
        while own[low : high + 1].sum() < LEAST and (low > 0 or high < bins - 1):
            low, high = max(0, low - 1), min(bins - 1, high + 1)
        widened += low != high
        values, n = counts.in_bins(low, high)
        entries, shares = _entries(values, n)
        found.append((entries, shares, int(own[at])))
    return found, widened


def _entries(values: np.ndarray, n: np.ndarray) -> tuple[Values, list[float]]:
    """Ascending values with cumulative shares; far ones together where there are too many."""
    octave = 8.0
    entries: Values = [int(value) for value in values]
    weights = n.astype(float)
    while len(entries) > _MOST:
        entries, weights = _together(values, n, octave)
        octave *= 0.75
    shares = np.cumsum(weights) / weights.sum()
    shares[-1] = 1.0
    return entries, [float(share) for share in shares]


def _together(values: np.ndarray, n: np.ndarray, octave: float) -> tuple[Values, np.ndarray]:
    """Beyond ±16 in so many groups an octave, each from its smallest to its largest seen."""
    size = np.abs(values)
    far = np.floor(octave * np.log2(np.maximum(size, _ALONE) / _ALONE)) + _ALONE + 1
    label = np.where(size <= _ALONE, size, far).astype(np.int64) * np.where(values < 0, -1, 1)
    entries: Values = []
    weights = []
    for one in np.unique(label):
        at = label == one
        low, high = int(values[at].min()), int(values[at].max())
        entries.append(low if low == high else (low, high))
        weights.append(float(n[at].sum()))
    return entries, np.array(weights)


def _spans(values: Sequence[int | tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    low = np.array([v if isinstance(v, int) else v[0] for v in values], float)
    high = np.array([v if isinstance(v, int) else v[1] for v in values], float)
    return low, high


def moments(table: Table) -> dict[str, np.ndarray]:
    """Of each bin's distribution, float64 [bins]: ``mean`` and ``square`` (ulps, ulps²), and
    ``changed``, the probability of any change."""
    found: dict[str, list[float]] = {"mean": [], "square": [], "changed": []}
    for one in table.bins:
        low, high = _spans(one.values)
        share = np.diff(np.array(one.cumulative), prepend=0.0)
        width = high - low + 1
        mean = (low + high) / 2
        found["mean"].append(float((share * mean).sum()))
        found["square"].append(float((share * (mean**2 + (width**2 - 1) / 12)).sum()))
        still = share * ((low <= 0) & (high >= 0)) / width
        found["changed"].append(float(1 - still.sum()))
    return {key: np.array(value) for key, value in found.items()}


def probability(table: Table, counts: Counts) -> np.ndarray:
    """The table's probability of each difference that was counted, float64 [M]."""
    found = np.zeros(len(counts.n))
    for number, one in enumerate(table.bins):
        at = np.flatnonzero(counts.bin == number)
        if not len(at):
            continue
        low, high = _spans(one.values)
        share = np.diff(np.array(one.cumulative), prepend=0.0) / (high - low + 1)
        place = np.searchsorted(low, counts.ulps[at], side="right") - 1
        inside = (place >= 0) & (counts.ulps[at] <= high[place])
        found[at] = np.where(inside, share[place], 0.0)
    return found


def log_score(table: Table, counts: Counts) -> np.ndarray:
    """Log-probability of each counted difference, nats; see `baselines.floored`."""
    from hetero_plugin.profile.fit.baselines import floored

    return floored(probability(table, counts), counts.ulps)
