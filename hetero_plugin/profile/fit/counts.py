"""How many elements there were of each difference: all that a fit keeps of the elements.

A cell is a bin of magnitude and a class of mantissas; a count is of one difference in one cell,
with sums over its elements that tell what it is against the RMS of their rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hetero_plugin.profile.fit.elements import GROUPS, Elements

__all__ = ["Counts"]

_MIDDLE, _SHIFT = 1 << 39, 40


@dataclass(frozen=True)
class Counts:
    """Counts of differences, in no order that matters.

    Args:
        bin: int64 [M], of each entry.
        group: int64 [M], class of mantissas.
        ulps: int64 [M], the difference.
        n: int64 [M], elements.
        sums: float64 [4, M], over the elements: `size`, `square`, `change`, `energy`.
    """

    bin: np.ndarray
    group: np.ndarray
    ulps: np.ndarray
    n: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(cls, elements: Elements, where: np.ndarray) -> Counts:
        """Those of some elements.

        Args:
            elements: of a site.
            where: bool [T, C]; those that are no finite numbers are left out in any case.
        """
        at = where & elements.finite
        cell = elements.bin[at].astype(np.int64) * GROUPS + elements.group[at]
        ulp = elements.ulp[at]
        change = np.where(ulp > 0, elements.change[at] * elements.sign[at], 0.0)
        keys = (cell << _SHIFT) + elements.ulps[at] + _MIDDLE
        return cls._together(keys, np.ones_like(keys), np.stack([ulp, ulp**2, change, change**2]))

    @classmethod
    def sum(cls, parts: Iterable[Counts]) -> Counts:
        """All of them together."""
        parts = list(parts)
        if not parts:
            none = np.zeros(0, np.int64)
            return cls._together(none, none, np.zeros((4, 0)))
        return cls._together(
            np.concatenate([part._keys for part in parts]),
            np.concatenate([part.n for part in parts]),
            np.concatenate([part.sums for part in parts], axis=1),
        )

    @classmethod
    def _together(cls, keys: np.ndarray, n: np.ndarray, sums: np.ndarray) -> Counts:
        unique, inverse = np.unique(keys, return_inverse=True)

        def totals(values: np.ndarray) -> np.ndarray:
            return np.bincount(inverse, values, minlength=len(unique))

        cell, ulps = unique >> _SHIFT, (unique & ((1 << _SHIFT) - 1)) - _MIDDLE
        return cls(
            cell // GROUPS,
            cell % GROUPS,
            ulps,
            totals(n).astype(np.int64),
            np.stack([totals(one) for one in sums]),
        )

    @property
    def _keys(self) -> np.ndarray:
        return ((self.bin * GROUPS + self.group) << _SHIFT) + self.ulps + _MIDDLE

    @property
    def mantissa(self) -> np.ndarray:
        """The middle of each entry's class of mantissas, in [1, 2); float64 [M]."""
        return 1 + (self.group + 0.5) / GROUPS

    @property
    def size(self) -> np.ndarray:
        """The sum of the elements' ulps over the RMS of their rows, float64 [M]."""
        return np.asarray(self.sums[0])

    @property
    def square(self) -> np.ndarray:
        """The sum of its squares, float64 [M]."""
        return np.asarray(self.sums[1])

    @property
    def change(self) -> np.ndarray:
        """The sum of the differences over the RMS of their rows, away from zero; float64 [M]."""
        return np.asarray(self.sums[2])

    @property
    def energy(self) -> np.ndarray:
        """The sum of their squares, float64 [M]."""
        return np.asarray(self.sums[3])

    @property
    def total(self) -> int:
        """Elements."""
        return int(self.n.sum())

    @property
    def changed(self) -> int:
        """Elements that differ at all."""
        return int(self.n[self.ulps != 0].sum())

    def by_bin(self, bins: int, values: np.ndarray | None = None) -> np.ndarray:
        """The sum over each bin's elements, float64 [bins]; of 1 where no values [M] are given."""
        weights = self.n if values is None else self.n * values
        return np.bincount(self.bin, weights, minlength=bins)
