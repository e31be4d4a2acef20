"""Running sums of an error: what was in fact added, after rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


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
        """Counts a pair of tensors of one shape, before and after the error."""
        x, y = before.detach().double(), after.detach().double()
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
