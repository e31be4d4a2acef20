"""Which simple pattern an error follows: a factor of each row or column, or an offset.

A pattern with p numbers explains by chance p / (T · C) of the square of an error without one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Pattern", "patterns"]

_SHARE, _SIGMAS, _LEAST = 0.2, 8.0, 0.3


@dataclass(frozen=True)
class Pattern:
    """One pattern, fitted by least squares.

    Args:
        name: ``factor`` (one of all), ``row factor``, ``column factor``, ``column offset`` or
            ``row and column factors``.
        values: its numbers; of ``row and column factors`` those of the columns.
        share: of the error's square that it explains beyond chance, at most 1.
        size: its RMS, in units of rounding's own error.
        real: it explains a fifth or more, could not be chance, and is of some size.
    """

    name: str
    values: np.ndarray
    share: float
    size: float
    real: bool


def patterns(
    error: np.ndarray, reference: np.ndarray, rows: np.ndarray, unit: float
) -> list[Pattern]:
    """The patterns of an error [T, C], the one that explains most first.

    Args:
        error: divided by each row's size.
        reference: the right result, so divided.
        rows: the sizes, [T].
        unit: RMS of rounding's own error.
    """
    total = float((error**2).sum())
    if total == 0:
        return []
    t, c = error.shape
    own = np.maximum((reference**2).sum(), 1e-300)
    of_row = np.maximum((reference**2).sum(1), 1e-300)
    of_column = np.maximum((reference**2).sum(0), 1e-300)
    all_ = float((error * reference).sum() / own)
    row = (error * reference).sum(1) / of_row
    column = (error * reference).sum(0) / of_column
    inverse = 1 / rows
    offset = (error * inverse[:, None]).sum(0) / (inverse**2).sum()
    rest = error - row[:, None] * reference
    also = (rest * reference).sum(0) / of_column
    both = row[:, None] * reference + also * reference
    fitted = [
        ("factor", np.array([all_]), all_ * reference, 1),
        ("row factor", row, row[:, None] * reference, t),
        ("column factor", column, column * reference, c),
        ("column offset", offset, offset * inverse[:, None], c),
        ("row and column factors", also, both, t + c),
    ]
    found = []
    for name, values, made, p in fitted:
        explained = 1 - float(((error - made) ** 2).sum()) / total
        chance = p / (t * c)
        share = (explained - chance) / max(1 - chance, 1e-9)
        sigmas = (explained * t * c - p) / np.sqrt(2 * p)
        size = float(np.sqrt(max(share, 0) * total / (t * c))) / unit
        real = share >= _SHARE and sigmas >= _SIGMAS and size >= _LEAST and chance < 0.5
        found.append(Pattern(name, values, share, size, bool(real)))
    # A pattern of fewer numbers is preferred to one that explains hardly more.
    order = {name: place for place, (name, *_) in enumerate(fitted)}
    return sorted(found, key=lambda one: (-round(one.share, 1), order[one.name]))
