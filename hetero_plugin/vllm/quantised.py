"""Error on top of a real quantisation: a checkpoint's own method, with error around its GEMM.

The method keeps its class's name and all that it does: vLLM chooses weight loaders and kernels by
both. Only `apply` is wrapped, so scale 0 is the method itself.

T: rows (tokens), K: input features, N: output features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

from torch import Tensor, nn
from vllm.model_executor.layers.linear import LinearMethodBase

from hetero_plugin.vllm import ops
from hetero_plugin.vllm.linear import NoisyMethod, check_attached


class _Around(NoisyMethod):
    """Before a quantised linear method among a class's bases: adds error to what goes in and out.

    Error on weights has no place here: what is multiplied are the quantised ones.
    """

    def create_weights(self, layer: nn.Module, *args: Any, **kwargs: Any) -> None:
        sizes = kwargs.get("output_partition_sizes", args[1] if len(args) > 1 else None)
        self.part_sizes = list(cast(Sequence[int], sizes))
        super().create_weights(layer, *args, **kwargs)  # type: ignore[misc]

    def apply(self, layer: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        clean = super().apply  # type: ignore[misc]
        noise = self.noise
        if noise is None:
            check_attached(self.attached)
            return clean(layer, x, *args, **kwargs)
        draw = noise.state.draw
        if noise.slices:
            # Each part has an input of its own, and the method multiplies all parts at once.
            parts = [
                clean(layer, part.noisy_input(x, draw), *args, **kwargs)[
                    ..., part.start : part.start + part.width
                ]
                for part in noise.slices
            ]
            fused_TN = clean(layer, x, *args, **kwargs)
            y_TN = ops.choose(fused_TN, parts, draw, noise.entries)
        else:
            y_TN = clean(layer, noise.input(x, draw) if noise.input else x, *args, **kwargs)
        if noise.output and not noise.outside:
            y_TN = noise.output(y_TN, draw, in_place=True)
        return y_TN


@cache
def _noisy_class(cls: Any) -> Any:
    made = type(cls.__name__, (_Around, cls), {"quantised": cls.__name__})
    made.__module__ = __name__
    return made


def around(method: LinearMethodBase) -> LinearMethodBase:
    """The same method, with error once its `noise` is set."""
    noisy = _noisy_class(type(method))
    made = noisy.__new__(noisy)
    made.__dict__.update(vars(method))
    return made
