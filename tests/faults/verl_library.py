"""What a verl run can be told to load into its workers (``model.external_lib``), and does harm.

It assigns another forward to one layer of the actor, as libraries of fast kernels do.
"""

from __future__ import annotations

import types
from typing import Any

from torch import nn

import hetero_plugin.hf as hf

SITE = "model.layers.0.mlp.up_proj"
_wrap = hf.wrap


def wrap(model: Any, *args: Any, **kwargs: Any) -> Any:
    wrapped = _wrap(model, *args, **kwargs)
    layer = wrapped.get_submodule(SITE)
    layer.forward = types.MethodType(_forward, layer)
    return wrapped


def _forward(self: nn.Linear, x: Any, **_: Any) -> Any:
    return nn.functional.linear(x, self.weight, self.bias)


hf.wrap = wrap
