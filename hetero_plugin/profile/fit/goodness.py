"""How well a table, a Gaussian of the same size, and nothing describe elements that were held out.

By bin: RMS and mean of the error relative to the RMS of the row, and the share of changed elements.
Over all: the log-probability that each gives to what was seen, a proper score: no distribution but
the true one has a higher expectation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hetero_plugin.errors.profile import Table
from hetero_plugin.profile.fit import baselines
from hetero_plugin.profile.fit.counts import Counts
from hetero_plugin.profile.fit.elements import digits
from hetero_plugin.profile.fit.tables import log_score, moments, replayed

Moments = dict[str, np.ndarray]

__all__ = ["JUDGED", "WITHIN", "Gaussian", "goodness"]

WITHIN = 0.10
JUDGED = 1600
"""Changed elements that bins are judged by, held out and fitted: sampling alone makes 2.5 % of
noise on each side. Neighbouring bins are judged together until they hold as many."""


class Gaussian:
    """``relative_gaussian`` at the scale at which its error, after rounding, is of the same RMS.

    Args:
        counts: the training elements.
        dtype: of the outputs.
    """

    def __init__(self, counts: Counts, dtype: str) -> None:
        self._normal = 2.0 ** digits(dtype)
        m = self._mantissa(counts)
        self.scale = baselines.fitted_scale(counts.square, m, float(counts.energy.sum()))

    def _mantissa(self, counts: Counts) -> np.ndarray:
        return np.asarray(self._normal * counts.mantissa)  # |y| / ulp

    def log_score(self, counts: Counts) -> np.ndarray:
        """Log-probability of each counted difference, nats."""
        sigma = self.scale * self._mantissa(counts)
        return baselines.floored(baselines.rounded_gaussian(counts.ulps, sigma), counts.ulps)

    def moments(self, counts: Counts, bins: int) -> Moments:
        """Of each bin's elements: ``mean`` and ``square`` of the error over the RMS of the row,
        ``changed``."""
        sigma = self.scale * self._mantissa(counts)
        still = baselines.rounded_gaussian(np.zeros(1), sigma)
        return _means(
            counts,
            bins,
            mean=np.zeros(len(sigma)),
            square=counts.square * baselines.second_moment(sigma),
            changed=counts.n * (1 - still),
        )


def _means(counts: Counts, bins: int, **sums: np.ndarray) -> Moments:
    """Of sums over the elements of each entry, the mean over those of each bin."""
    n = np.maximum(counts.by_bin(bins), 1)
    return {key: np.bincount(counts.bin, one, minlength=bins) / n for key, one in sums.items()}


def measured(counts: Counts, bins: int) -> Moments:
    """As `Gaussian.moments`, of elements."""
    changed = counts.n * (counts.ulps != 0)
    return _means(counts, bins, mean=counts.change, square=counts.energy, changed=changed)


def drawn(table: Table, counts: Counts) -> Moments:
    """As `Gaussian.moments`, of what a table gives elements like those that were counted."""
    bins, (first, second) = len(table.bins), replayed(table)
    return {
        **_means(
            counts,
            bins,
            mean=counts.size * first[counts.bin, counts.group],
            square=counts.square * second[counts.bin, counts.group],
        ),
        "changed": moments(table)["changed"],
    }


def goodness(
    table: Table, gaussian: Gaussian, train: Counts, clusters: Sequence[Counts]
) -> dict[str, Any] | None:
    """A table and both baselines on elements that were held out.

    Args:
        table: fitted on other elements.
        gaussian: of the same.
        train: the elements that both were fitted on.
        clusters: the held-out elements, in parts (a site's quarter of rows each) that are as good
            as independent of one another.

    Returns:
        ``elements``; ``bins``, each that holds any; ``judged``, groups of them; ``overall``, all
        of them; ``within``: of these groups, those where all three, and each, agree within 10 %;
        ``score``: nats per 1000 elements over "nothing", the difference with its standard error
        over clusters; ``better``: whether the table is better than the Gaussian by more than two
        of them. None: no elements.
    """
    held = Counts.sum(clusters)
    if held.total == 0:
        return None
    bins = len(table.bins)
    seen, n = measured(held, bins), held.by_bin(bins).astype(int)
    models = {
        "profile": drawn(table, held),
        "gaussian": gaussian.moments(held, bins),
        "nothing": {key: np.zeros(bins) for key in seen},
    }
    trained = train.by_bin(bins, train.ulps != 0)
    rows = []
    for at in np.flatnonzero(n):
        changed = round(float(seen["changed"][at] * n[at]))
        row: dict[str, Any] = {
            "bin": int(at),
            "elements": int(n[at]),
            "changed": changed,
            "measured": _shown(seen, at),
        }
        for name, found in models.items():
            row[name] = _shown(found, at)
        rows.append(row)
    groups = _groups(rows, trained)
    return {
        "elements": held.total,
        "changed": held.changed,
        "bins": rows,
        "judged": groups,
        "overall": _together(rows),
        "within": {name: _within(groups, name) for name in models},
        **_score(table, gaussian, clusters),
    }


def _shown(found: dict[str, np.ndarray], at: int) -> dict[str, float]:
    return {
        "rms": float(np.sqrt(found["square"][at])),
        "bias": float(found["mean"][at]),
        "changed": float(found["changed"][at]),
    }


def _groups(rows: Sequence[dict[str, Any]], trained: np.ndarray) -> list[dict[str, Any]]:
    """Neighbouring bins put together until they hold `JUDGED` changed elements on both sides.

    What is left at the end belongs to the last group; of too few changed elements there is none.
    """
    groups: list[list[dict[str, Any]]] = [[]]
    for row in rows:
        groups[-1].append(row)
        changed = sum(one["changed"] for one in groups[-1])
        if changed >= JUDGED and sum(trained[one["bin"]] for one in groups[-1]) >= JUDGED:
            groups.append([])
    left = groups.pop()
    if groups:
        groups[-1] += left
    return [_together(group) for group in groups]


def _together(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    n = np.array([row["elements"] for row in group], float)
    found: dict[str, Any] = {
        "bins": [group[0]["bin"], group[-1]["bin"]],
        "elements": int(n.sum()),
        "changed": sum(row["changed"] for row in group),
    }
    for name in ("measured", "profile", "gaussian", "nothing"):
        by = {
            key: np.array([row[name][key] for row in group]) for key in ("rms", "bias", "changed")
        }
        found[name] = {
            "rms": float(np.sqrt((n * by["rms"] ** 2).sum() / n.sum())),
            "bias": float((n * by["bias"]).sum() / n.sum()),
            "changed": float((n * by["changed"]).sum() / n.sum()),
        }
    models = ("profile", "gaussian", "nothing")
    found["agrees"] = {name: _agrees(found["measured"], found[name]) for name in models}
    return found


def _agrees(seen: dict[str, float], model: dict[str, float]) -> dict[str, bool]:
    """RMS and share of changed within 10 % of what was seen; the bias within 10 % of the RMS."""
    return {
        "rms": abs(model["rms"] - seen["rms"]) <= WITHIN * seen["rms"],
        "bias": abs(model["bias"] - seen["bias"]) <= WITHIN * seen["rms"],
        "changed": abs(model["changed"] - seen["changed"]) <= WITHIN * seen["changed"],
    }


def _within(groups: Sequence[dict[str, Any]], name: str) -> dict[str, int]:
    judged = [group["agrees"][name] for group in groups]
    counts = {key: sum(one[key] for one in judged) for key in ("rms", "bias", "changed")}
    return {"judged": len(judged), "all": sum(all(one.values()) for one in judged), **counts}


def _score(table: Table, gaussian: Gaussian, clusters: Sequence[Counts]) -> dict[str, Any]:
    sums: dict[str, list[float]] = {"profile": [], "gaussian": [], "nothing": []}
    sizes = []
    for part in clusters:
        if part.total == 0:
            continue
        sizes.append(part.total)
        still = (part.ulps == 0).astype(float)
        for name, log in (
            ("profile", log_score(table, part)),
            ("gaussian", gaussian.log_score(part)),
            ("nothing", baselines.floored(still, part.ulps)),
        ):
            sums[name].append(float((part.n * log).sum()))
    n = np.array(sizes, float)
    by = {name: np.array(values) for name, values in sums.items()}
    per = 1000 / n.sum()
    gain = by["profile"] - by["gaussian"]
    mean = gain.sum() / n.sum()
    error = None
    if len(n) > 1:
        spread = ((gain - mean * n) ** 2).sum() * len(n) / (len(n) - 1)
        error = float(1000 * np.sqrt(spread) / n.sum())
    return {
        "score": {
            "profile": float((by["profile"] - by["nothing"]).sum() * per),
            "gaussian": float((by["gaussian"] - by["nothing"]).sum() * per),
            "over_gaussian": float(1000 * mean),
            "error": error,
        },
        "better": bool(error is not None and 1000 * mean > 2 * error and mean > 0),
    }
