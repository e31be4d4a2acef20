"""What rounding to nearest leaves of a relative error: the arithmetic behind a warning."""

from __future__ import annotations

import math

import torch


def half_ulp(dtype: torch.dtype) -> float:
    """The smallest relative distance from a number to the point where it rounds to its neighbour.

    2**-9 for bfloat16, 2**-12 for float16, 2**-25 for float32.
    """
    return torch.finfo(dtype).eps / 4


def share_changed(scale: float, dtype: torch.dtype, error: str = "relative_gaussian") -> float:
    """Expected share of elements that a relative error changes when rounded to nearest.

    A number m·2**e (1 <= m < 2) changes if |z|·s·m > eps/2; m is taken as log-uniform.

    Args:
        error: ``relative_gaussian`` or ``relative_uniform`` (|z| is then uniform up to √3).
    """
    if scale <= 0:
        return 0.0
    half_step = torch.finfo(dtype).eps / 2
    points = 64
    total = 0.0
    for i in range(points):
        m = 2.0 ** ((i + 0.5) / points)
        least = half_step / (scale * m)
        if error == "relative_uniform":
            total += max(0.0, 1.0 - least / math.sqrt(3.0))
        else:
            total += math.erfc(least / math.sqrt(2.0))
    return total / points
