"""The linear layers and the LM head. T: rows (tokens), K: input features, N: output features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.model_executor.layers.fused_moe.router.gate_linear import GateLinear
from vllm.model_executor.layers.linear import (
    RowParallelLinear,
    UnquantizedLinearMethod,
    register_weight_loader_v2_supported_method,
)
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
from vllm.platforms import current_platform

from hetero_plugin.config import ConfigError
from hetero_plugin.errors import error_model
from hetero_plugin.operator import Chain, Product
from hetero_plugin.vllm import ops

if TYPE_CHECKING:
    from hetero_plugin.vllm.rows import Rows


def prepare_gemm(layer: nn.Module) -> None:
    """Packs a layer's weight for vLLM's CPU GEMM, and keeps the weight.

    vLLM drops it, and the next weight sync then has nowhere to write. The packed copy is what makes
    scale 0 equal to vLLM bit for bit; it is made anew whenever weights have been loaded.
    """
    dispatch_cpu_unquantized_gemm(layer, remove_weight=False)


def check_attached(attached: bool) -> None:
    """A clean result is right only for a layer that the spec was seen to leave out."""
    if not attached:
        raise RuntimeError(
            "hetero_noise: this process runs a model with quantization=hetero_noise whose layers "
            "were never given their noise, so it would run clean; its worker was made without the "
            "plugin (see docs/vllm.md, 'Processes')"
        )


def check_rows(chain: Chain, rows: int) -> None:
    """Raises ConfigError where a rank's rows of a weight are not all that its error needs."""
    if not any(error_model(stage.error).whole_tensor for stage in chain.stages):
        return
    name = chain.parts[0][0]
    whole = next(site.features for site in chain.state.sites if site.name == name)
    if rows != whole:
        raise ConfigError(
            f"hetero_noise: nvfp4 with a scale of the whole tensor, and this rank has {rows} of "
            f"the {whole} rows of {name}'s weight, whose largest is not the tensor's; use one "
            "rank, or options: {tensor_scale: row} or the number itself"
        )


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


class RowSlice(nn.Module):
    """The rows of a weight that belong to one site, as a GEMM of its own.

    Only where the fused GEMM won't do: where sites of one fused layer have error on their inputs
    (each then has its own input), or where a weight has error. Shares the layer's weight.

    Args:
        start, width: the rows within the layer's weight.
        first_row: global index of the first of them.
        input, weight: the chains of these points.
        product: how its product adds up.
    """

    def __init__(
        self,
        start: int,
        width: int,
        first_row: int,
        input: Chain,
        weight: Chain,
        product: Product | None = None,
    ) -> None:
        super().__init__()
        self.product = product
        self.start, self.width = start, width
        check_rows(weight, width)
        self.input_chain, self.weight_chain = input, weight
        device = weight.state.device
        self.rows = torch.arange(first_row, first_row + width, dtype=torch.int64, device=device)

    def follow(self, layer: nn.Module) -> None:
        """Takes the rows from the layer's present weight, and packs them for the CPU."""
        rows = slice(self.start, self.start + self.width)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        self.weight = nn.Parameter(weight.data[rows], requires_grad=False)
        bias = layer.bias
        if isinstance(bias, Tensor):
            # A view: weights are loaded into it, and captured graphs go on reading its address.
            self.bias: Tensor | None = nn.Parameter(bias.data[rows], requires_grad=False)
        else:
            self.bias = None
        if current_platform.is_cpu() and not self.weight_chain:
            prepare_gemm(self)

    def noisy_weight(self) -> Tensor:
        """The rows [width, K] with their error; each is keyed by its global index."""
        return self.weight_chain(self.weight, self.rows)


@dataclass
class LinearNoise:
    """What is added at one linear layer: the chains of its points."""

    output: Chain
    input: Chain | None
    """Error on the input that all parts read; None where `slices` have it."""
    slices: list[RowSlice] = field(default_factory=list)
    live: Tensor | None = None
    """int64: entries of the scale table that decide whether the slices are in use."""
    outside: bool = False
    """The output's error comes in the layer (after an all-reduce, say), not in the method."""
    product: Product | None = None
    """How the product adds up; None where the `slices` say."""


def check_product(name: str, quantised: str, summed: bool) -> None:
    """Raises ConfigError where a layer's product can't be added up in another way.

    Args:
        name: of the layer.
        quantised: as in `NoisyMethod`.
        summed: each rank has a piece of the sum.
    """
    if quantised:
        raise ConfigError(
            f"hetero_noise: {name} has the method {quantised}, which multiplies in a way of its "
            "own; the error accumulate is for weights that are not quantised"
        )
    if summed:
        raise ConfigError(
            f"hetero_noise: every tensor-parallel rank adds up a piece of {name}, so the result of "
            "accumulate would depend on their number; partial=true says that this is meant, or "
            "use one rank, or exclude it"
        )


class NoisyMethod:
    """What every linear method has that can add error."""

    noise: LinearNoise | None = None
    attached = False
    """Whether the spec was seen to give or leave out this layer's noise."""
    part_sizes: Sequence[int] = ()
    """Columns of each part of a fused layer on this rank."""
    quantised = ""
    """Name of the method that keeps the weights in a form of its own; empty: there is none."""


@register_weight_loader_v2_supported_method
class NoisyLinearMethod(NoisyMethod, UnquantizedLinearMethod):
    """vLLM's own linear method, with error on its input and output once `noise` is set."""

    supports_pre_processed_weights = False

    @classmethod
    def around(cls, method: UnquantizedLinearMethod, width: int) -> NoisyLinearMethod:
        """A noisy method for a loaded layer of ``width`` columns that has vLLM's plain one."""
        made = cls.__new__(cls)
        made.__dict__.update(method.__dict__)
        made.attached, made.part_sizes = True, [width]
        return made

    def create_weights(
        self,
        layer: nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        super().create_weights(
            layer,
            input_size_per_partition,
            output_partition_sizes,
            input_size,
            output_size,
            params_dtype,
            **extra_weight_attrs,
        )
        self.part_sizes = list(output_partition_sizes)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Runs after the first load and after every weight sync."""
        if current_platform.is_cpu() and not getattr(layer, "_cpu_skip_gemm_dispatch", False):
            prepare_gemm(layer)
        else:
            super().process_weights_after_loading(layer)
        if self.noise is not None:
            for part in self.noise.slices:
                part.follow(layer)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        noise = self.noise
        if noise is None:
            check_attached(self.attached)
            return super().apply(layer, x, bias)
        if noise.slices:
            y_TN = self._apply_sliced(layer, noise, x, bias)
        else:
            x_TK = noise.input(x) if noise.input else x
            y_TN = super().apply(layer, x_TK, bias)
            if noise.product:
                y_TN = noise.product(x_TK, _weight(layer), bias, y_TN)
        if noise.output and not noise.outside:
            y_TN = noise.output(y_TN, in_place=True)
        return y_TN

    def _apply_sliced(
        self, layer: nn.Module, noise: LinearNoise, x: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Each part on its own perturbed input and weight.

        A GEMM of some rows may sum in another order than the fused one, so at scale 0 the fused
        GEMM's result is what is passed on.
        """
        parts = []
        for part in noise.slices:
            x_TK = part.input_chain(x) if part.input_chain else x
            part_bias = None if bias is None else part.bias
            weight: Tensor = part.weight
            if part.weight_chain:
                # vLLM keeps the bias of its CPU GEMM in float32.
                part_bias = None if part_bias is None else part_bias.to(x_TK.dtype)
                weight = part.noisy_weight()
                y_Tn = F.linear(x_TK, weight, part_bias)
            else:
                y_Tn = super().apply(part, x_TK, part_bias)
            if part.product:
                y_Tn = part.product(x_TK, weight, part_bias, y_Tn)
            parts.append(y_Tn)
        fused_TN = super().apply(layer, x, bias)
        assert noise.live is not None
        return ops.choose(fused_TN, parts, noise.output.state.scales, noise.live)


class _NoisyOutside:
    """A layer that puts the error on its output itself."""

    def forward(self, x: Tensor) -> Any:
        result = super().forward(x)  # type: ignore[misc]
        method = self.quant_method  # type: ignore[attr-defined]
        assert isinstance(method, NoisyMethod) and method.noise is not None
        if isinstance(result, tuple):
            return method.noise.output(result[0], in_place=True), result[1]
        return method.noise.output(result, in_place=True)


class NoisyRowParallelLinear(_NoisyOutside, RowParallelLinear):
    """A row-parallel layer whose error is added once, after the sum, on every rank alike."""


class NoisyGateLinear(_NoisyOutside, GateLinear):
    """A router, whose kernels may compute past its method."""


@dataclass
class HeadNoise:
    """What is added at the LM head."""

    output: Chain
    input: Chain
    weight: Chain
    weight_rows: Tensor
    """int64 [columns]: which words this rank has."""
    live: Tensor
    """int64: entries of the scale table that decide whether the noisy weight is in use."""
    rows: Rows
    product: Product
    """How the product adds up."""

    def __post_init__(self) -> None:
        check_rows(self.weight, self.columns)

    @property
    def columns(self) -> int:
        """Columns of this rank that are words; padding follows them."""
        return self.weight_rows.numel()


class NoisyHeadMethod(UnquantizedEmbeddingMethod):
    """vLLM's LM head method, with error on the rows that the engine selected."""

    supports_pre_processed_weights = False

    def __init__(self) -> None:
        super().__init__()
        self.noise: HeadNoise | None = None
        self.attached = False

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        noise = self.noise
        if noise is None:
            check_attached(self.attached)
            return super().apply(layer, x, bias)
        keys = noise.rows.keys_of(x)
        words = noise.columns
        x_TK = noise.input(x, keys) if noise.input else x
        y_TN = super().apply(layer, x_TK, bias)
        if not (noise.output or noise.weight or noise.product):
            return y_TN
        y_TW = y_TN[..., :words].contiguous()
        weight = _weight(layer)[:words]
        word_bias = None if bias is None else bias[:words]
        if noise.weight:
            weight = noise.weight(weight, noise.weight_rows)
            noisy_TW = F.linear(x_TK, weight, word_bias)
            y_TW = ops.choose(y_TW, [noisy_TW], noise.weight.state.scales, noise.live)
        if noise.product:
            y_TW = noise.product(x_TK, weight, word_bias, y_TW)
        if noise.output:
            y_TW = noise.output(y_TW, keys, in_place=True)
        if y_TW.shape == y_TN.shape:
            return y_TW
        y_TN[..., :words].copy_(y_TW)
        return y_TN
