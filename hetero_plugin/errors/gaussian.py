"""Errors drawn from a normal distribution."""

from __future__ import annotations

from torch import Tensor

from hetero_plugin.errors.base import ErrorModel


def _relative(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    assert z is not None
    return z * scale * x.abs()


def _absolute(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    assert z is not None
    return z * scale


RELATIVE = ErrorModel(
    "relative_gaussian", _relative, additive=True, draws="normal", native=True, help="z·|x|·s"
)
ABSOLUTE = ErrorModel(
    "absolute_gaussian", _absolute, additive=True, draws="normal", native=True, help="z·s"
)
