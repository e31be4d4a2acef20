"""Errors that are a function of the value alone."""

from __future__ import annotations

import torch
from torch import Tensor

from hetero_plugin.errors.base import arithmetic


@arithmetic("systematic_bias")
def _bias(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    return torch.sign(x) * scale


@arithmetic("systematic_bias_relative")
def _relative_bias(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    return x * scale  # sign(x)·|x| = x


@arithmetic("truncation")
def _truncation(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    cut = torch.floor(x / scale) * scale
    # A step far below the value's own resolution truncates nothing (and x / s may overflow).
    return torch.where(torch.isfinite(cut), cut, x)


@arithmetic("deadzone")
def _deadzone(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    threshold = scale * x.abs().amax(dim=-1, keepdim=True)
    return torch.where(x.abs() < threshold, torch.zeros_like(x), x)
