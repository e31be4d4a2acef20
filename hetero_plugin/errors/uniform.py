"""Errors drawn from a uniform distribution."""

from __future__ import annotations

import math

from torch import Tensor

from hetero_plugin.errors.base import arithmetic

ROOT_3 = math.sqrt(3.0)
"""A uniform in ±1 has variance 1/3."""


@arithmetic("relative_uniform")
def _relative(x: Tensor, scale: Tensor, u: Tensor | None) -> Tensor:
    assert u is not None
    # In this order: the kernels round after each product, and are equal to this bit for bit.
    return u * (scale * ROOT_3) * x.abs()
