"""The layers other than linear ones, as classes that a loaded layer is given in place.

They are not registered out of tree: that would replace the layers of clean engines too, and vLLM
builds these layers without telling them their names.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from vllm import ir
from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm

from hetero_plugin.operator import Chain
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm import ops


@dataclass
class NormNoise:
    """What is added at a norm."""

    state: NoiseState
    output: Chain
    offset: Tensor | None
    """AQN's offset of the weight, float32 [D]; None without AQN."""
    in_dtype: bool = False
    """Add the offset in the weight's own dtype (``aqn.precision: param``)."""


def _weight(norm: Any) -> Tensor:
    return norm.weight.data


class _NoisyNorm:
    """A norm with AQN's offset on its weight and error on its output, never on the residual.

    x is [T, N], or [T, heads, D] for a norm of each head, whose error has the columns of all heads.
    """

    noise: NormNoise
    _shift = 0.0
    """What the norm adds to its weight."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Any:
        noise = self.noise
        # Before the layer's own norm, which may overwrite x and residual.
        unit = None if noise.offset is None else self._unit(x, residual)
        result = super().forward(x, residual)  # type: ignore[misc]
        normed = result if residual is None else result[0]
        dtype = normed.dtype
        if torch.compiler.is_compiling():
            # Not rounded yet, as in the clean graph, where the compiler may fuse what follows.
            normed = normed.float()
        if unit is not None and noise.offset is not None:
            weights = _weight(self), noise.offset, self._shift, noise.in_dtype
            normed = ops.weighed(noise.output, noise.state.draw, normed, dtype, unit, *weights)
        elif noise.output and dtype == normed.dtype:
            normed = noise.output(normed, noise.state.draw, in_place=True)
        elif noise.output:
            normed = noise.output.before_rounding(normed, noise.state.draw, dtype)
        normed = normed.to(dtype)
        return normed if residual is None else (normed, result[1])

    @abstractmethod
    def _unit(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """x (+ residual) divided by its root mean square, as the norm has it before its weight."""


class NoisyRMSNorm(_NoisyNorm, RMSNorm):
    """Llama's RMSNorm: the norm is rounded to the dtype before its weight."""

    def _unit(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """x (+ residual) divided by its root mean square.

        In vLLM's own traced operator: an opaque one would read the sum, make the compiler round it
        to the dtype there, and so change the clean result of the layers after it.
        """
        epsilon, size = self.variance_epsilon, self.variance_size_override
        if residual is None:
            return ir.ops.rms_norm(x, None, epsilon, size)
        return ir.ops.fused_add_rms_norm(x, residual, None, epsilon, size)[0]


class NoisyGemmaRMSNorm(_NoisyNorm, GemmaRMSNorm):
    """Gemma's RMSNorm: (1 + weight) in float32, rounded once."""

    _shift = 1.0

    def _unit(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """As in `NoisyRMSNorm`, and in float32: Gemma does not round before its weight."""
        if residual is None:
            return ir.ops.rms_norm(x.float(), None, self.variance_epsilon)
        wide = x.float(), residual.float()
        return ir.ops.fused_add_rms_norm(*wide, None, self.variance_epsilon)[0]


@dataclass
class ActivationNoise:
    """What is added at the gated activation of an MLP."""

    state: NoiseState
    output: Chain
    activation: str
    entries: Tensor = field(init=False)
    """int64: those of the scale table that decide whether the noisy product is taken."""

    def __post_init__(self) -> None:
        self.entries = ops.entries_of(self.state, self.output)


class _NoisyGate:
    """act(gate)·up with error on act(gate), before the product."""

    noise: ActivationNoise

    def forward(self, x: Tensor) -> Tensor:
        noise = self.noise
        clean = super().forward(x)  # type: ignore[misc]
        how = noise.activation, noise.entries
        return ops.gated(noise.output, noise.state.draw, x, clean, *how)


class NoisySiluAndMul(_NoisyGate, SiluAndMul):
    """silu(gate)·up."""


class NoisyGeluAndMul(_NoisyGate, GeluAndMul):
    """gelu(gate)·up, exact or by tanh."""


@dataclass
class AttentionNoise:
    """What is added at softmax·V."""

    state: NoiseState
    output: Chain


class NoisyAttention(Attention):
    """Attention with error on softmax·V, before the output projection."""

    noise: AttentionNoise

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        # Not in place: what attention returns is a view of a buffer that the compiled graph was
        # given, and vLLM's functionalization would copy it before the operator and back after.
        return self.noise.output(super().forward(*args, **kwargs), self.noise.state.draw)


@cache
def noisy_attention(cls: type[Attention]) -> type[Attention]:
    """`NoisyAttention` that stays what it was: an encoder's attention has no cache, for one."""
    if issubclass(cls, NoisyAttention):
        return cls
    return NoisyAttention if cls is Attention else type(cls.__name__, (NoisyAttention, cls), {})
