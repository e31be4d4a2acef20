"""Number formats as error models: what a tensor is after it has been stored in one.

Scales belong to a row or to a block of it. NVFP4's second one is of the tensor (weights alone, or a
token's error would depend on its batch), of the row, or a number that was found by calibration.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from hetero_plugin.config.error_models import FORMATS as NAMES
from hetero_plugin.config.error_models import REGISTRY
from hetero_plugin.errors.base import ErrorModel, Function, arithmetic
from hetero_plugin.errors.formats import FORMATS
from hetero_plugin.errors.formats.grid import E2M1, E4M3
from hetero_plugin.errors.formats.micro import Reference, nvfp4
from hetero_plugin.errors.formats.numbers import of_nvfp4

__all__ = ["nvfp4_model"]

_NVFP4_BLOCK = 16


def _blended(apply: Callable[[Tensor], Tensor]) -> Function:
    def function(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
        q = apply(x.float()).to(x.dtype)
        # At 1 the format's own value, which x + (q - x) is not always.
        return torch.where(scale == 1, q, x + scale * (q - x))

    return function


for _name in NAMES:
    arithmetic(_name)(_blended(FORMATS[_name].apply))


@cache
def nvfp4_model(words: str) -> ErrorModel:
    """NVFP4 with options.

    Args:
        words: ``nvfp4|SCALE|REFERENCE``: ``max``, ``row`` or a number; see `formats.micro.nvfp4`.
    """
    _, scale, reference = words.split("|")

    def apply(x: Tensor) -> Tensor:
        of = cast(Reference, reference)
        if scale == "max":
            return nvfp4(x, None, of)
        if scale != "row":
            return nvfp4(x, float(scale), of)
        top = x.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        g = torch.nan_to_num(E4M3.largest * E2M1.largest / top, nan=1.0, posinf=1.0)
        return nvfp4(x, g[..., None], of)  # against [..., blocks, 16]

    whole_row = scale in ("max", "row")
    traits: dict[str, Any] = {
        **vars(REGISTRY["nvfp4"]),
        "name": words,
        "whole_row": whole_row,
        "block": 0 if whole_row else _NVFP4_BLOCK,
        "whole_tensor": scale == "max",
    }
    numbers = of_nvfp4(scale if scale in ("max", "row") else float(scale), reference)
    return ErrorModel(**traits, function=_blended(apply), numbers=numbers)
