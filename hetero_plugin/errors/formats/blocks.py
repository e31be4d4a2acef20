"""Blocks of consecutive columns that share a scale."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

__all__ = ["largest", "of_blocks"]


def of_blocks(x: Tensor, size: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function`` of x in blocks.

    Args:
        x: float32 [..., N].
        size: columns of a block; the last one is filled up with zeros, which change no maximum.
        function: [..., blocks, size] -> the same.
    """
    columns = x.shape[-1]
    missing = -columns % size
    if missing:
        x = F.pad(x, (0, missing))
    y = function(x.unflatten(-1, (-1, size))).flatten(-2)
    return y[..., :columns] if missing else y


def largest(x: Tensor) -> Tensor:
    """max|x| of each block, [..., 1]; NaN where a block has one."""
    return x.abs().amax(dim=-1, keepdim=True)
