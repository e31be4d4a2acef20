"""The layers other than linear ones, as classes that a loaded layer is given in place.

They are not registered out of tree: that would replace the layers of clean engines too, and vLLM
builds these layers without telling them their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from vllm import ir
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm

from hetero_plugin.perturb import Chain
from hetero_plugin.vllm import ops


@dataclass
class NormNoise:
    """What is added at a norm."""

    output: Chain
    offset: Tensor | None
    """AQN's offset of the weight, float32 [N]; None without AQN."""


class NoisyRMSNorm(RMSNorm):
    """RMSNorm with AQN's offset on its weight and error on its output, never on the residual."""

    noise: NormNoise

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Any:
        noise = self.noise
        # Before the layer's own norm, which may overwrite x and residual.
        unit = None if noise.offset is None else self._unit(x, residual)
        result = super().forward(x, residual)
        normed = result if residual is None else result[0]
        if unit is not None and noise.offset is not None:
            normed = ops.weigh(normed, unit, self.weight.data, noise.offset)
        if noise.output:
            normed = noise.output(normed)
        return normed if residual is None else (normed, result[1])

    def _unit(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """x (+ residual) [T, N] divided by its root mean square.

        In vLLM's own traced operator: an opaque one would read the sum, make the compiler round it
        to the dtype there, and so change the clean result of the layers after it.
        """
        epsilon, size = self.variance_epsilon, self.variance_size_override
        if residual is None:
            return ir.ops.rms_norm(x, None, epsilon, size)
        return ir.ops.fused_add_rms_norm(x, residual, None, epsilon, size)[0]


@dataclass
class ActivationNoise:
    """What is added at the gated activation of an MLP."""

    output: Chain
    live: Tensor
    """int64: entries of the scale table that decide whether the noisy product is taken."""
    activation: str


class NoisySiluAndMul(SiluAndMul):
    """silu(gate)·up with error on silu(gate), before the product."""

    noise: ActivationNoise

    def forward(self, x: Tensor) -> Tensor:
        noise = self.noise
        clean = super().forward(x)
        gate = noise.output(ops.activate(x, noise.activation))
        return ops.gated_product(gate, x, clean, noise.output.state.scales, noise.live)


class NoisyAttention(Attention):
    """Attention with error on softmax·V, before the output projection."""

    noise: Chain

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.noise(super().forward(*args, **kwargs))
