"""Running sums of an error: what was in fact added, after rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

ELEMENTS = 1 << 20
"""Elements of a tensor that are summed at a time, in float64: at most about 50 MiB of copies,
whatever the tensor's size."""


@dataclass
class Realised:
    """Running sums of one site's error; all in float64."""

    elements: int = 0
    changed: int = 0
    nonzero: int = 0
    error: float = 0.0  # sum of e
    error_square: float = 0.0
    signal_square: float = 0.0
    relative_square: float = 0.0  # sum of (e / x)^2 where x != 0

    def add(self, before: Tensor, after: Tensor) -> None:
        """Counts a pair of tensors of one shape, before and after the error: all their elements, a
        part at a time."""
        for x, y in _parts(before.detach(), after.detach()):
            self._add(x, y)

    def _add(self, before: Tensor, after: Tensor) -> None:
        x, y = before.double(), after.double()
        e = y - x
        present = x != 0
        self.elements += x.numel()
        self.changed += int((before != after).sum())
        self.nonzero += int(present.sum())
        self.error += float(e.sum())
        self.error_square += float((e * e).sum())
        self.signal_square += float((x * x).sum())
        self.relative_square += float(((e[present] / x[present]) ** 2).sum())

    def merge(self, other: Realised) -> None:
        """Adds another site's sums."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def summary(self) -> dict[str, float | int | None]:
        """``rms_relative`` (of e/x over nonzero x), ``bias`` (mean e over RMS x), ``changed``
        (share of elements), ``sqnr_db``; None where a figure is not defined."""
        n = max(self.elements, 1)
        rms_signal = math.sqrt(self.signal_square / n)
        noisy = self.error_square > 0 and self.signal_square > 0
        return {
            "elements": self.elements,
            "rms_relative": math.sqrt(self.relative_square / self.nonzero)
            if self.nonzero
            else None,
            "bias": self.error / n / rms_signal if rms_signal else None,
            "changed": self.changed / n,
            "sqnr_db": 10 * math.log10(self.signal_square / self.error_square) if noisy else None,
        }


def _parts(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The two in views of at most `ELEMENTS` elements, cut alike."""
    if x.numel() <= ELEMENTS:
        yield x, y
        return
    dim = max(range(x.ndim), key=lambda d: x.shape[d])
    size = max(1, x.shape[dim] * ELEMENTS // x.numel())
    for a, b in zip(x.split(size, dim), y.split(size, dim), strict=True):
        yield from _parts(a, b)
