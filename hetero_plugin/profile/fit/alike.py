"""Correlation of differences within rows and within columns: what a profile does not draw.

A profile draws each element by itself. Where the errors of a row or of a column are alike, the next
operator's sum over them does not average them out, and the profile's effect is too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hetero_plugin.profile.fit.elements import Elements

__all__ = ["Alike", "correlations"]


class Alike:
    """Sums over the pairs of one site. `correlations` puts several together.

    Args:
        elements: of a site.
        bins: of magnitude.
    """

    def __init__(self, elements: Elements, bins: int) -> None:
        fine = elements.finite
        ulps = np.where(fine, elements.ulps, 0).astype(float)
        n = np.maximum(np.bincount(elements.bin[fine], minlength=bins), 1)
        square = np.bincount(elements.bin[fine], ulps[fine] ** 2, minlength=bins) / n
        size = np.sqrt(np.where(square > 0, square, 1.0))[elements.bin]
        self.sums = {
            "toward zero or away": _pairs(ulps / size),
            "up or down": _pairs(ulps * elements.sign / size),
        }


def _pairs(z: np.ndarray) -> dict[str, tuple[float, float]]:
    """Of pairs in a row and in a column: the mean product's sum, and its number of pairs; and of
    the elements themselves."""
    t, c = z.shape
    own = float((z**2).sum())
    return {
        "row": (float((z.sum(1) ** 2).sum()) - own, float(t * c * (c - 1))),
        "column": (float((z.sum(0) ** 2).sum()) - own, float(c * t * (t - 1))),
        "own": (own, float(t * c)),
    }


def correlations(parts: Sequence[Alike]) -> dict[str, Any]:
    """The mean correlation of two elements of a ``row`` and of a ``column``.

    Of differences toward zero or away from it, and of those up or down. None where nothing differs
    or there is no pair.
    """
    found: dict[str, Any] = {}
    for name in ("toward zero or away", "up or down"):
        own = sum(part.sums[name]["own"][0] for part in parts)
        elements = sum(part.sums[name]["own"][1] for part in parts)
        found[name] = {}
        for pair in ("row", "column"):
            total = sum(part.sums[name][pair][0] for part in parts)
            pairs = sum(part.sums[name][pair][1] for part in parts)
            known = own > 0 and pairs > 0
            found[name][pair] = (total / pairs) / (own / elements) if known else None
    return found
