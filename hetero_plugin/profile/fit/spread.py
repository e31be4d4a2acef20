"""How much operators of one table differ among themselves, in how many of their elements change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["between"]

_LEAST = 4
"""Groups below which a standard deviation tells nothing."""


def between(labels: Sequence[object], n: Sequence[int], changed: Sequence[int]) -> float | None:
    """The standard deviation of the share changed between groups, over the share of all.

    What counting alone makes of equal groups is taken off: the moment estimator of DerSimonian and
    Laird (1986), weighted by elements, with binomial variances. Flips that come together in a row
    are counted as if they did not.

    Args:
        labels: of the group that each operator is of, as many as operators.
        n: elements of each.
        changed: of these.

    Returns:
        0 if the groups differ no more than counting explains; None where there are too few groups,
        or none or all of the elements changed.
    """
    place = {label: at for at, label in enumerate(dict.fromkeys(labels))}
    of = np.array([place[label] for label in labels], int)
    elements = np.bincount(of, n, minlength=len(place)).astype(float)
    counted = np.bincount(of, changed, minlength=len(place)).astype(float)
    there = elements > 0
    elements, counted = elements[there], counted[there]
    if len(elements) < _LEAST or not 0 < counted.sum() < elements.sum():
        return None
    total = elements.sum()
    share = counted.sum() / total
    chance = share * (1 - share)
    seen = float((elements * (counted / elements - share) ** 2).sum())
    beyond = seen - (len(elements) - 1) * chance
    variance = beyond / (total - (elements**2).sum() / total)
    return float(np.sqrt(max(variance, 0.0)) / share)
