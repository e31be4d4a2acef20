"""Formats with a float32 scale for a tensor, a row, a group of columns or a tile: FP8 and integers.

x is float32 [..., N]. The result is the value that the format holds, in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hetero_plugin.errors.formats.blocks import largest, of_blocks
from hetero_plugin.errors.formats.grid import Grid

__all__ = ["fp8", "integer"]

Granularity = str | int
"""``tensor``, ``row``, ``tile`` (128 × 128), or a number of columns."""
_TILE = 128


def fp8(x: Tensor, grid: Grid, granularity: Granularity = "row", floor: float = 0.0) -> Tensor:
    """FP8 with the scale max|x| / largest.

    Args:
        x: float32 [..., N]; for tiles [M, N].
        grid: E4M3 or E5M2.
        granularity: what shares a scale.
        floor: the smallest scale; vLLM has 1 / (448 · 512) for rows and 1e-10 for groups.
    """

    def scaled(b: Tensor) -> Tensor:
        scale = (largest(b) / grid.largest).clamp(min=floor)
        y = grid.nearest(b / scale) * scale
        return torch.where(scale == 0, torch.zeros_like(b), y)

    return _by(x, granularity, scaled)


def integer(
    x: Tensor, bits: int, granularity: Granularity = "row", symmetric: bool = False
) -> Tensor:
    """Integers of a sign, with a scale and without a zero point.

    Args:
        x: float32 [..., N].
        bits: 8 or 4, or any from 2.
        granularity: what shares a scale.
        symmetric: numbers from -(2^(b-1) - 1) and the scale max|x| / (2^(b-1) - 1); else those of
            compressed-tensors: from -2^(b-1) and the scale max|x| / ((2^b - 1) / 2), 127.5 for 8.
    """
    high = 2 ** (bits - 1) - 1
    low = -high if symmetric else -high - 1
    divisor = float(high) if symmetric else (2**bits - 1) / 2.0

    def scaled(b: Tensor) -> Tensor:
        scale = largest(b) / divisor
        y = torch.round((b / scale).clamp(low, high)) * scale
        return torch.where(scale == 0, torch.zeros_like(b), y)

    return _by(x, granularity, scaled)


def _by(x: Tensor, granularity: Granularity, scaled: object) -> Tensor:
    function = scaled
    assert callable(function)
    if granularity == "tensor":
        whole: Tensor = function(x.reshape(1, -1)).view(x.shape)
        return whole
    if granularity == "row":
        rows: Tensor = function(x)
        return rows
    if granularity == "tile":
        return _tiles(x, function)
    assert isinstance(granularity, int)
    return of_blocks(x, granularity, function)


def _tiles(x: Tensor, function: object) -> Tensor:
    """``function`` of each tile of a matrix as one block; edges are filled up with zeros."""
    assert callable(function)
    rows, columns = x.shape
    padded = torch.nn.functional.pad(x, (0, -columns % _TILE, 0, -rows % _TILE))
    tiles = padded.unflatten(1, (-1, _TILE)).unflatten(0, (-1, _TILE)).permute(0, 2, 1, 3)
    flat: Tensor = function(tiles.flatten(2))
    back = flat.unflatten(2, (_TILE, _TILE)).permute(0, 2, 1, 3).reshape(padded.shape)
    return back[:rows, :columns]
