"""Formats with a float32 scale for a tensor, a row, a group of columns or a tile: FP8 and integers.

x is float32 [..., N]. The result is the value that the format holds, in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from hetero_plugin.errors.formats.blocks import largest, of_blocks
from hetero_plugin.errors.formats.elements import Elements, unit_step
from hetero_plugin.errors.formats.grid import Grid

__all__ = ["FP8Reference", "Granularity", "fp8", "integer"]

Granularity = str | int
"""``tensor``, ``row``, ``block`` (a tile of 128 × 128), or a number of columns."""
FP8Reference = Literal["compressed-tensors", "vllm"]
_TILE = 128
_VLLM_FLOOR = 1.0 / (448.0 * 512.0)


def fp8(
    x: Tensor,
    grid: Grid,
    granularity: Granularity = "row",
    floor: float | None = None,
    *,
    amax: float | None = None,
    reference: FP8Reference = "compressed-tensors",
    elements: Elements | None = None,
) -> Tensor:
    """FP8 with the scale max|x| / largest.

    Args:
        x: float32 [..., N]; for blocks [M, N].
        grid: E4M3 or E5M2; larger numbers saturate.
        granularity: what shares a scale.
        floor: the smallest scale; None: 0, or 1 / (448 · 512) of vLLM.
        amax: in place of max|x|.
        reference: ``compressed-tensors`` divides by the scale, ``vllm`` multiplies by its
            reciprocal, but for groups of columns.
        elements: in place of rounding to the nearest number.
    """
    if floor is None:
        floor = _VLLM_FLOOR if reference == "vllm" else 0.0
    by_product = reference == "vllm" and not isinstance(granularity, int)

    def scaled(b: Tensor) -> Tensor:
        scale = (_amax(b, amax) / grid.largest).clamp(min=floor)
        q = grid.of(b * (1.0 / scale) if by_product else b / scale, elements)
        return torch.where(scale == 0, torch.zeros_like(b), q * scale)

    return _by(x, granularity, scaled)


def integer(
    x: Tensor,
    bits: int,
    granularity: Granularity = "row",
    symmetric: bool = False,
    *,
    amax: float | None = None,
    elements: Elements | None = None,
) -> Tensor:
    """Integers of a sign, with a scale and without a zero point.

    Args:
        x: float32 [..., N].
        bits: 8 or 4, or any from 2.
        granularity: what shares a scale.
        symmetric: numbers from -(2^(b-1) - 1) and the scale max|x| / (2^(b-1) - 1); else those of
            compressed-tensors: from -2^(b-1) and the scale max|x| / ((2^b - 1) / 2), 127.5 for 8.
        amax: in place of max|x|.
        elements: in place of rounding to the nearest number.
    """
    high = 2 ** (bits - 1) - 1
    low = -high if symmetric else -high - 1
    divisor = float(high) if symmetric else (2**bits - 1) / 2.0

    def scaled(b: Tensor) -> Tensor:
        scale = _amax(b, amax) / divisor
        v = b / scale
        if elements is None:
            q = torch.round(v.clamp(low, high))
        else:
            q = elements(v, float(low), float(high), unit_step)
        return torch.where(scale == 0, torch.zeros_like(b), q * scale)

    return _by(x, granularity, scaled)


def _amax(b: Tensor, given: float | None) -> Tensor:
    """max|b| of each block, [..., 1]; or what was given, a scalar."""
    return largest(b) if given is None else torch.tensor(given, device=b.device)


def _by(x: Tensor, granularity: Granularity, scaled: Callable[[Tensor], Tensor]) -> Tensor:
    if granularity == "tensor":
        return scaled(x.reshape(1, -1)).view(x.shape)
    if granularity == "row":
        return scaled(x)
    if granularity == "block":
        return _tiles(x, scaled)
    assert isinstance(granularity, int)
    return of_blocks(x, granularity, scaled)


def _tiles(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function`` of each tile of a matrix as one block; edges are filled up with zeros."""
    rows, columns = x.shape
    padded = torch.nn.functional.pad(x, (0, -columns % _TILE, 0, -rows % _TILE))
    tiles = padded.unflatten(1, (-1, _TILE)).unflatten(0, (-1, _TILE)).permute(0, 2, 1, 3)
    flat = function(tiles.flatten(2))
    back = flat.unflatten(2, (_TILE, _TILE)).permute(0, 2, 1, 3).reshape(padded.shape)
    return back[:rows, :columns]
