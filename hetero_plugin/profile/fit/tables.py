"""Tables of a profile: the distribution of the difference in each bin, from counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hetero_plugin.errors.profile import Table
from hetero_plugin.profile.fit.counts import Counts
from hetero_plugin.profile.fit.elements import GROUPS, digits

__all__ = ["ENOUGH", "SEEN", "binned", "log_score", "moments", "replayed", "shares", "supported"]

ENOUGH = 50
"""Changed elements below which a bin takes its neighbours' too, for how far they were changed."""
PRIOR = 10.0
"""Changed elements that the neighbours' trend counts as, in a bin's own share of changed ones."""
_REACH = 3.0
"""Bins after which a neighbour counts for 1 / e in that trend."""
SEEN = 10
"""Times that a rare thing must have been seen for its probability to be known within a third."""
_MOST = 256
_STEP = 0.5
"""Octaves of a bin."""
_SIMPSON = (1 / 6, 4 / 6, 1 / 6)
_ALONE = 16
"""Ulps up to which no two differences are put together."""

Values = list[int | tuple[int, int]]


def supported(elements: int) -> float:
    """The smallest probability that so many elements can tell."""
    return SEEN / max(elements, SEEN)


def shares(n: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """The share of changed elements of each bin, float64 [bins].

    A rounding that flips is the rarer the more ulps of the result its error is small against, so
    the logarithm of the share is nearly linear over a few bins. That line, fitted around each bin
    with weights that fall off (Poisson regression, held to the line of all bins), counts as `PRIOR`
    changed elements beside the bin's own: it decides where few were seen and hardly matters where
    many were.

    Args:
        n: elements of each bin.
        changed: of these.
    """
    if not changed.any():
        return np.zeros(len(n))
    x = np.arange(len(n), dtype=float)
    found = np.zeros(len(n))
    middle = float((x * n).sum() / n.sum())
    start = _Line(float(np.log(changed.sum() / n.sum())), 0.0)
    whole = _line(x - middle, n, changed, start, (0.1, 1.0))
    for at in range(len(n)):
        weight = np.exp(-np.abs(x - at) / _REACH)
        here = _Line(whole.level + whole.slope * (at - middle), whole.slope)
        trend = _line(x - at, n * weight, changed * weight, here, (2.0, 50.0))
        found[at] = (changed[at] + PRIOR) / (n[at] + PRIOR / np.exp(min(0.0, trend.level)))
    return np.minimum(found, 1.0)


@dataclass(frozen=True)
class _Line:
    """The logarithm of a share: its level at 0, and its slope."""

    level: float
    slope: float


def _line(
    x: np.ndarray, n: np.ndarray, changed: np.ndarray, prior: _Line, weight: tuple[float, float]
) -> _Line:
    """Poisson regression changed ≈ n · exp(level + slope · x), held to a prior with weights."""
    found = np.array([prior.level, prior.slope])
    held, center = np.diag(weight), found.copy()
    for _ in range(100):
        rate = n * np.exp(np.clip(found[0] + found[1] * x, -60.0, 3.0))
        pull = np.array([(changed - rate).sum(), ((changed - rate) * x).sum()])
        pull -= held @ (found - center)
        bend = held + np.array(
            [[rate.sum(), (rate * x).sum()], [(rate * x).sum(), (rate * x * x).sum()]]
        )
        step = np.clip(np.linalg.solve(bend, pull), -0.5, 0.5)
        found = found + step
        if np.abs(step).max() < 1e-9:
            break
    return _Line(float(np.clip(found[0], -40.0, 0.0)), float(found[1]))


def binned(
    counts: Counts, bins: int, dtype: str
) -> tuple[list[tuple[Values, list[float], int]], int]:
    """Each bin's values, their cumulative shares and the elements seen in that bin.

    How often anything changes is `shares`; by how much, what was seen in the bin, together with its
    nearest neighbours where it holds fewer than `ENOUGH` changed elements.

    Ulps of elements of one bin differ by up to half an octave against the RMS of their rows, and an
    error that is the same whatever the ulp is fewer of the larger ones; a table knows ulps only. So
    each element counts by the square of its ulp against its row, which keeps the mean square; the
    share of changed ones is then 1 % (many ulps) to 2 % (rare flips) too small. Counted alike, it
    would be right and the mean square 2 % (rare flips) to 4 % (many ulps) too large. The outer bins
    have ulps of many sizes and hardly any of the error: there the share is kept.

    Returns:
        The bins, and how many of them took their neighbours' too.

    Raises:
        ValueError: no elements.
    """
    if counts.total == 0:
        raise ValueError("no elements")
    own, changed = counts.by_bin(bins), counts.by_bin(bins, counts.ulps != 0)
    square = np.bincount(counts.bin, counts.square, minlength=bins) / np.maximum(own, 1)
    inner = (counts.bin > 0) & (counts.bin < bins - 1) & (square > 0)[counts.bin]
    weight = np.where(
        inner, counts.square / np.where(square > 0, square, 1.0)[counts.bin], counts.n
    )
    weighted = np.bincount(counts.bin, weight * (counts.ulps != 0), minlength=bins)
    share = shares(own, weighted)
    found, widened = [], 0
    for at in range(bins):
        low = high = at
        while changed[low : high + 1].sum() < ENOUGH and (low > 0 or high < bins - 1):
            low, high = max(0, low - 1), min(bins - 1, high + 1)
        widened += low != high
        entries, weights = _grouped(*_distances(counts, weight, at, low, high, 2 ** digits(dtype)))
        found.append((*_entries(entries, weights, float(share[at])), int(own[at])))
    return found, widened


def _distances(
    counts: Counts, weight: np.ndarray, at: int, low: int, high: int, octave: int
) -> tuple[np.ndarray, np.ndarray]:
    """How far elements of bins low … high were changed, and the weight of each, for bin ``at``.

    Smaller elements have smaller ulps: of a bin below, so many ulps are fewer of this one's, and at
    least one. Bin 0 has no lower end, and lends but directions.

    What crosses zero is some 30,000 ulps away in bfloat16, and so many from a smaller element would
    end at an enormous one. So nothing goes further toward zero than 6 octaves, nor, in bin 0, away
    from it than one: next to nothing of the row's error is there.
    """
    of = (counts.bin >= low) & (counts.bin <= high) & (counts.ulps != 0)
    size = np.abs(counts.ulps[of]) * 2.0 ** (_STEP * np.minimum(counts.bin[of] - at, 0))
    if at > 0:
        size = np.where(counts.bin[of] == 0, 1.0, size)
    sign = np.sign(counts.ulps[of])
    most = np.where(sign < 0, 6 * octave, octave if at == 0 else np.inf)
    far = np.minimum(np.maximum(np.rint(size), 1), most).astype(np.int64) * sign
    values, inverse = np.unique(far, return_inverse=True)
    return values, np.bincount(inverse, weight[of], minlength=len(values))


def _entries(entries: Values, weights: np.ndarray, changed: float) -> tuple[Values, list[float]]:
    """With 0 among them, and cumulative shares."""
    found = {0: 1 - changed} if changed < 1 or not entries else {}
    found |= dict(zip(entries, changed * weights, strict=True))  # type: ignore[arg-type]
    ordered = sorted(
        found.items(), key=lambda one: one[0] if isinstance(one[0], int) else one[0][0]
    )
    total = np.cumsum([one for _, one in ordered])
    kept: Values = []
    cumulative: list[float] = []
    for (value, _), share in zip(ordered, total / total[-1], strict=True):
        if share > (cumulative[-1] if cumulative else 0.0):  # what is too rare for float64 goes
            kept.append(value)
            cumulative.append(float(share))
    cumulative[-1] = 1.0
    return kept, cumulative


def _grouped(values: np.ndarray, n: np.ndarray) -> tuple[Values, np.ndarray]:
    """Ascending values and their shares; far ones together where there are too many."""
    octave = 8.0
    entries: Values = [int(value) for value in values]
    weights = n.astype(float)
    while len(entries) >= _MOST:
        entries, weights = _together(values, n, octave)
        octave *= 0.75
    return entries, weights / max(weights.sum(), 1.0)


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


def replayed(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Mean and mean square of what is drawn, in ulps of the clean element: float64 [bins, GROUPS].

    A difference is so many numbers of the dtype further, and beyond a power of two these are twice
    or half as far apart. So it depends on the mantissa what it comes to.
    """
    normal = 2.0 ** digits(table.dtype)
    start = np.floor(normal * (1 + (np.arange(GROUPS) + 0.5) / GROUPS))
    first, second = np.zeros((2, len(table.bins), GROUPS))
    for number, one in enumerate(table.bins):
        low, high = _spans(one.values)
        share = np.diff(np.array(one.cumulative), prepend=0.0)[:, None]
        for part, at in zip(_SIMPSON, (low, (low + high) / 2, high), strict=True):
            octave, rest = np.divmod(start + at[:, None] - normal, normal)
            moved = np.exp2(octave) * (normal + rest) - start
            first[number] += part * (share * moved).sum(0)
            second[number] += part * (share * moved**2).sum(0)
    return first, second


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
