"""Errors drawn from a normal distribution."""

from __future__ import annotations

from torch import Tensor

from hetero_plugin.errors.base import arithmetic


@arithmetic("relative_gaussian")
def _relative(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    assert z is not None
    return z * scale * x.abs()


@arithmetic("absolute_gaussian")
def _absolute(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    assert z is not None
    return z * scale
