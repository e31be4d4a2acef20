"""How much operators of one table differ among themselves, in how many of their elements change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["between"]

_LEAST = 4
"""Groups below which a standard deviation tells nothing."""
_SURE = 3.0
"""Standard deviations of what counting alone makes, beyond which it is not by chance."""


def between(
    labels: Sequence[object], n: Sequence[int], changed: Sequence[int]
) -> dict[str, float | bool] | None:
    """The standard deviation of the share changed between groups, over the share of all.

    What counting alone makes of equal groups is taken off: the moment estimator of DerSimonian and
    Laird (1986), weighted by elements, with binomial variances. Flips that come together in a row
    are counted as if they did not.

    Args:
        labels: of the group that each operator is of, as many as operators.
        n: elements of each.
        changed: of these.

    Returns:
        ``value``: 0 if the groups differ no more than counting explains; ``sure``: whether equal
        groups would hardly differ as much, by three standard deviations of Pearson's statistic
        (2 (groups - 1) + the sum of 1 / expected counts). None where there are too few groups, or
        none or all of the elements changed.
    """
    place = {label: at for at, label in enumerate(dict.fromkeys(labels))}
    of = np.array([place[label] for label in labels], int)
    elements = np.bincount(of, n, minlength=len(place)).astype(float)
    counted = np.bincount(of, changed, minlength=len(place)).astype(float)
    there = elements > 0
    elements, counted = elements[there], counted[there]
    if len(elements) < _LEAST or not 0 < counted.sum() < elements.sum():
        return None
    total, free = elements.sum(), len(elements) - 1
    share = counted.sum() / total
    chance = share * (1 - share)
    beyond = float((elements * (counted / elements - share) ** 2).sum()) / chance - free
    by_chance = np.sqrt(2 * free + (1 / (elements * share)).sum())
    variance = beyond * chance / (total - (elements**2).sum() / total)
    return {
        "value": float(np.sqrt(max(variance, 0.0)) / share),
        "sure": bool(beyond > _SURE * by_chance),
    }
