"""How many elements there were of each difference: all that a fit keeps of the elements.

A cell is a bin of magnitude and a class of mantissas; a count is of one difference in one cell.
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
    """

    bin: np.ndarray
    group: np.ndarray
    ulps: np.ndarray
    n: np.ndarray

    @classmethod
    def of(cls, elements: Elements, where: np.ndarray) -> Counts:
        """Those of some elements.

        Args:
            elements: of a site.
            where: bool [T, C]; those that are no finite numbers are left out in any case.
        """
        at = where & elements.finite
        cell = elements.bin[at].astype(np.int64) * GROUPS + elements.group[at]
        keys, n = np.unique((cell << _SHIFT) + elements.ulps[at] + _MIDDLE, return_counts=True)
        return cls._from(keys, n)

    @classmethod
    def sum(cls, parts: Iterable[Counts]) -> Counts:
        """All of them together."""
        parts = list(parts)
        if not parts:
            return cls._from(np.zeros(0, np.int64), np.zeros(0, np.int64))
        keys = np.concatenate([part._keys for part in parts])
        n = np.concatenate([part.n for part in parts])
        unique, inverse = np.unique(keys, return_inverse=True)
        totals = np.zeros(len(unique), np.int64)
        np.add.at(totals, inverse, n)
        return cls._from(unique, totals)

    @classmethod
    def _from(cls, keys: np.ndarray, n: np.ndarray) -> Counts:
        cell, ulps = keys >> _SHIFT, (keys & ((1 << _SHIFT) - 1)) - _MIDDLE
        return cls(cell // GROUPS, cell % GROUPS, ulps, n)

    @property
    def _keys(self) -> np.ndarray:
        return ((self.bin * GROUPS + self.group) << _SHIFT) + self.ulps + _MIDDLE

    @property
    def mantissa(self) -> np.ndarray:
        """The middle of each entry's class of mantissas, in [1, 2); float64 [M]."""
        return 1 + (self.group + 0.5) / GROUPS

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
