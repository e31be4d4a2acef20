"""The error of one operator on two machines, against float64.

T rows, C columns that were kept. Errors are divided by the size of their row, and stated in units
of the error that rounding the float64 result to the output's dtype makes by itself: 1 is the best
that there can be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hetero_plugin.profile.recording import SiteEntry, SiteRecord

__all__ = ["SURE", "Errors", "errors_of"]

SURE = 3.0
"""Standard errors by which a ratio must be over its limit."""


@dataclass(frozen=True)
class Errors:
    """One operator.

    Args:
        entry: of it.
        a: A's error / the row's size, float64 [T, C].
        b: B's.
        reference: float64 result / the row's size, [T, C].
        size: of each row, [T].
        unit: RMS of rounding's own error / the row's size.
        broken: elements that are finite in float64 and not on A, and not on B.
    """

    entry: SiteEntry
    a: np.ndarray
    b: np.ndarray
    reference: np.ndarray
    size: np.ndarray
    unit: float
    broken: tuple[int, int]

    @property
    def rms(self) -> tuple[float, float]:
        """Of A and of B, in units of rounding's own error."""
        one, two = (float(np.sqrt(np.mean(e**2))) / self.unit for e in (self.a, self.b))
        return one, two

    @property
    def ratio(self) -> float:
        """B's error over A's."""
        one, two = self.rms
        return two / one if one > 0 else np.inf

    @property
    def sure(self) -> float:
        """The larger error over the smaller, less `SURE` standard errors over rows; at least 1."""
        squares = np.stack([(self.a**2).sum(1), (self.b**2).sum(1)])
        sums = squares.sum(1)
        if not sums.all():
            return 1.0 if not sums.any() else np.inf
        pull = 0.5 * (squares[1] / sums[1] - squares[0] / sums[0])
        t = len(pull)
        error = np.sqrt(t / max(t - 1, 1) * (pull**2).sum())
        log = abs(0.5 * np.log(sums[1] / sums[0]))
        return float(np.exp(max(0.0, log - SURE * error)))

    @property
    def odd(self) -> str:
        """The machine with the larger error."""
        return "b" if self.ratio >= 1 else "a"


def errors_of(a: SiteRecord, b: SiteRecord) -> Errors | None:
    """The errors of an operator; None where no float64 result was recorded.

    Args:
        a: output [R, T, C]; its first repetition is used. With its reference, or b's is taken.
        b: of the same inputs, rows and columns.
    """
    reference = a.reference if a.reference is not None else b.reference
    if reference is None:
        return None
    fine = torch.isfinite(reference)
    outputs = [one.output[0].double() for one in (a, b)]
    broken = [int((fine & ~torch.isfinite(y)).sum()) for y in outputs]
    for y in outputs:
        fine = fine & torch.isfinite(y)
    exact = torch.where(fine, reference, 0.0)
    size = exact.square().mean(1, keepdim=True).sqrt()
    size = torch.where(size > 0, size, 1.0)
    rounded = exact.to(a.output.dtype).double()
    unit = float(((rounded - exact) / size).square().mean().sqrt())
    if unit == 0:  # all results are numbers of the dtype
        unit = float(torch.finfo(a.output.dtype).eps) / 4
    scaled = [(torch.where(fine, y, 0.0) - exact) / size for y in outputs]
    return Errors(
        a.entry,
        scaled[0].numpy(),
        scaled[1].numpy(),
        (exact / size).numpy(),
        size[:, 0].numpy(),
        unit,
        (broken[0], broken[1]),
    )
