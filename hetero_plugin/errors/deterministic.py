"""Errors that are a function of the value alone."""

from __future__ import annotations

import torch
from torch import Tensor

from hetero_plugin.errors.base import ErrorModel


def _bias(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    return torch.sign(x) * scale


def _relative_bias(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    return x * scale  # sign(x)·|x| = x


def _truncation(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    cut = torch.floor(x / scale) * scale
    # A step far below the value's own resolution truncates nothing (and x / s may overflow).
    return torch.where(torch.isfinite(cut), cut, x)


def _deadzone(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    threshold = scale * x.abs().amax(dim=-1, keepdim=True)
    return torch.where(x.abs() < threshold, torch.zeros_like(x), x)


BIAS = ErrorModel(
    "systematic_bias", _bias, additive=True, draws=None, native=True, help="sign(x)·s"
)
RELATIVE_BIAS = ErrorModel(
    "systematic_bias_relative",
    _relative_bias,
    additive=True,
    draws=None,
    native=True,
    help="sign(x)·|x|·s",
)
TRUNCATION = ErrorModel(
    "truncation", _truncation, additive=False, draws=None, native=True, help="floor(x/s)·s − x"
)
DEADZONE = ErrorModel(
    "deadzone",
    _deadzone,
    additive=False,
    draws=None,
    native=False,
    help="−x where |x| < s·max|x| of the row",
    whole_row=True,
)
