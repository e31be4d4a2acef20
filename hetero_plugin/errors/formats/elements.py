"""What else than rounding to nearest can be done with a block's elements, once they are scaled.

Each format scales its elements and rounds them in its own order of operations; all take one of
these in place of the rounding, so that scales are those of the format to the bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hetero_plugin.errors.formats.grid import power_of_two

__all__ = ["Elements", "Step", "beyond", "by_bits", "unit_step"]

Step = Callable[[Tensor], Tensor]
"""Scaled numbers -> exponents of the distance between their two neighbours in the grid, int32."""
Elements = Callable[[Tensor, float, float, Step], Tensor]
"""(scaled elements, least and largest number of the grid, step) -> what stands in their place;
float32, multiplied by the scale afterwards."""

_TOLERANCE = 2.0**-18
"""Of the largest number. Scales are float32: the largest of a block divided by its scale can come
out a few units in the last place above the number that it is meant to be, and isn't beyond it."""


def unit_step(v: Tensor) -> Tensor:
    """The step of integers."""
    return torch.zeros_like(v, dtype=torch.int32)


def beyond(v: Tensor, low: float, high: float, step: Step) -> Tensor:
    """Infinity where an element lies beyond the grid, else 0: any scale but 0 leaves that so."""
    outside = (v < low * (1 + _TOLERANCE)) | (v > high * (1 + _TOLERANCE))
    return torch.where(outside, torch.inf, 0.0)


def by_bits(bits_TN: Tensor) -> Elements:
    """Stochastic rounding: to one of the two neighbours, with probabilities that keep the mean.

    Args:
        bits_TN: int64 [T, N], 16 random bits for each element of the tensor. A neighbour's
            probability is a multiple of 2^-16, so the mean is off by up to 2^-17 of a step.
    """

    def rounded(v: Tensor, low: float, high: float, step: Step) -> Tensor:
        v = v.clamp(low, high)
        exponent = step(v)
        steps = v.abs() * power_of_two(-exponent)
        down = torch.floor(steps)
        bits = _laid_out(bits_TN, v).to(torch.float32)
        up = (steps - down) * 65536.0 > bits + 0.5
        return torch.copysign((down + up) * power_of_two(exponent), v)

    return rounded


def _laid_out(bits_TN: Tensor, v: Tensor) -> Tensor:
    """Bits in the blocks of v, whose last ones may be filled up."""
    if bits_TN.numel() != v.numel():
        bits_TN = F.pad(bits_TN, (0, -bits_TN.shape[-1] % v.shape[-1]))
    return bits_TN.reshape(v.shape)
