"""Number formats as error models: what a tensor is after it has been stored in one.

Those whose scales belong to a row or to a block of it; NVFP4 with its scale of the whole tensor is
not among them, since a token's error would depend on its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hetero_plugin.config.error_models import FORMATS as NAMES
from hetero_plugin.errors.base import Function, arithmetic
from hetero_plugin.errors.formats import FORMATS, Format


def _blended(form: Format) -> Function:
    def function(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
        q = form.apply(x.float()).to(x.dtype)
        # At 1 the format's own value, which x + (q - x) is not always.
        return torch.where(scale == 1, q, x + scale * (q - x))

    return function


for _name in NAMES:
    arithmetic(_name)(_blended(FORMATS[_name]))
