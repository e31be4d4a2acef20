"""Number formats as error models: what a tensor is after it has been stored in one.

Those whose scales belong to a row or to a block of it; NVFP4 with its scale of the whole tensor is
not among them, since a token's error would depend on its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hetero_plugin.errors.base import ErrorModel, Function
from hetero_plugin.errors.formats import FORMATS, Format

__all__ = ["MODELS"]

_BLOCKS = {
    "mxfp4": 32,
    "mxfp6_e2m3": 32,
    "mxfp6_e3m2": 32,
    "mxfp8_e4m3": 32,
    "mxfp8_e5m2": 32,
    "hif4": 64,
    "int4": 128,
    "fp8_e4m3": 0,
    "fp8_e5m2": 0,
    "int8": 0,
}
"""Columns that share a scale; 0: the whole row."""


def _blended(form: Format) -> Function:
    def function(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
        q = form.apply(x.float()).to(x.dtype)
        # At 1 the format's own value, which x + (q - x) is not always.
        return torch.where(scale == 1, q, x + scale * (q - x))

    return function


MODELS = tuple(
    ErrorModel(
        name,
        _blended(FORMATS[name]),
        additive=False,
        draws=None,
        native=False,
        help=f"s·(Q(x) − x), Q: {FORMATS[name].help}",
        whole_row=block == 0,
        block=block,
    )
    for name, block in _BLOCKS.items()
)
