"""The linear layers. T: rows (tokens), K: input features, N: output features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.model_executor.layers.fused_moe.router.gate_linear import GateLinear
from vllm.model_executor.layers.linear import (
    LinearBase,
    RowParallelLinear,
    UnquantizedLinearMethod,
    register_weight_loader_v2_supported_method,
)
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import current_platform

from hetero_plugin.config import ConfigError
from hetero_plugin.operator import Chain, Part, Product
from hetero_plugin.operator.shared import with_shared_scale
from hetero_plugin.state import Draw, NoiseState
from hetero_plugin.vllm import ops
from hetero_plugin.vllm.alike import OneInput
from hetero_plugin.vllm.columns import check_product, check_rows
from hetero_plugin.vllm.held import HeldWeight, Piece


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


def weight_of(layer: nn.Module) -> Tensor:
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
        device: where the model computes.
        product: how its product adds up; None: as vLLM does.
    """

    def __init__(
        self,
        start: int,
        width: int,
        first_row: int,
        input: Chain,
        weight: Chain,
        device: torch.device,
        product: Product | None = None,
    ) -> None:
        super().__init__()
        self.product = product
        self.start, self.width = start, width
        self.input_chain, self.weight_chain = input, weight
        self.rows = torch.arange(first_row, first_row + width, dtype=torch.int64, device=device)
        self.others: list[RowSlice] = []
        """Those whose weights have one scale with this one's."""

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

    def noisy_input(self, x: Tensor, draw: Draw) -> Tensor:
        """What this site reads, [T, K]."""
        return self.input_chain(x, draw) if self.input_chain else x

    def noisy_weight(self, draw: Draw) -> Tensor:
        """The rows [width, K] with their error; each is keyed by its global index."""
        if self.others:
            weights = [other.weight for other in self.others]
            name = self.weight_chain.parts[0][0]
            return with_shared_scale(self.weight_chain, self.weight, weights, draw, name)
        return self.weight_chain(self.weight, draw.of(self.rows))


@dataclass
class LinearNoise:
    """What is added at one linear layer: the chains of its points."""

    state: NoiseState
    output: Chain
    input: Chain | None
    """Error on the input that all parts read; None where `slices` have it."""
    slices: list[RowSlice] = field(default_factory=list)
    outside: bool = False
    """The output's error comes in the layer (after an all-reduce, say), not in the method."""
    product: Product | None = None
    """How the product adds up; None where the `slices` say."""
    held: HeldWeight | None = None
    """The weight with its error, where that is fixed; None: the layer's own is multiplied."""
    alike: OneInput | None = None
    """The error on the input that the slices have in common; None: each has its own."""
    entries: Tensor = field(init=False)
    """int64: those of the scale table that decide whether the slices are in use."""

    def __post_init__(self) -> None:
        held = [(one.input_chain, one.weight_chain, one.product) for one in self.slices]
        read = (one for held_by in held for one in held_by if one is not None)
        self.entries = ops.entries_of(self.state, *read)

    def __bool__(self) -> bool:
        held = self.held is not None
        return held or bool(self.output or self.input or self.slices or self.product)

    def multiplied(self, layer: nn.Module) -> nn.Module:
        """What the layer's GEMM is given: the layer, or what holds its weight with error."""
        return layer if self.held is None else self.held


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
        if self.noise is not None and self.noise.held is not None:
            self.noise.held.outdate()  # and made anew, with all that reads it, before a pass
            return
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
        draw = noise.state.draw
        if noise.alike is not None:
            y_TN = self._apply_alike(layer, noise, noise.alike, x, bias)
        elif noise.slices:
            y_TN = self._apply_sliced(layer, noise, x, bias)
        else:
            x_TK = noise.input(x, draw) if noise.input else x
            multiplied = noise.multiplied(layer)
            y_TN = super().apply(multiplied, x_TK, bias)
            if noise.product:
                y_TN = noise.product(x_TK, weight_of(multiplied), bias, y_TN, draw)
        if noise.output and not noise.outside:
            y_TN = noise.output(y_TN, draw, in_place=True)
        return y_TN

    def _apply_alike(
        self,
        layer: nn.Module,
        noise: LinearNoise,
        alike: OneInput,
        x: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        """All parts on one perturbed input, as long as their scales are the same."""
        draw, parts = noise.state.draw, noise.slices
        y_TN = super().apply(noise.multiplied(layer), alike.before(x, draw), bias)
        # vLLM keeps the bias of its CPU GEMM in float32.
        own = [one.bias for one in parts if one.bias is not None and bias is not None]
        biases = [one.to(x.dtype) for one in own]
        alike.after(y_TN, x, [one.weight for one in parts], biases, draw)
        return y_TN

    def _apply_sliced(
        self, layer: nn.Module, noise: LinearNoise, x: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Each part on its own perturbed input and weight.

        A GEMM of some rows may sum in another order than the fused one, so at scale 0 the fused
        GEMM's result is what is passed on.
        """
        parts, draw = [], noise.state.draw
        for part in noise.slices:
            x_TK = part.noisy_input(x, draw)
            part_bias = None if bias is None else part.bias
            weight: Tensor = part.weight
            if part.weight_chain:
                # vLLM keeps the bias of its CPU GEMM in float32.
                part_bias = None if part_bias is None else part_bias.to(x_TK.dtype)
                weight = part.noisy_weight(draw)
                y_Tn = F.linear(x_TK, weight, part_bias)
            else:
                y_Tn = super().apply(part, x_TK, part_bias)
            if part.product:
                y_Tn = part.product(x_TK, weight, part_bias, y_Tn, draw)
            parts.append(y_Tn)
        fused_TN = super().apply(noise.multiplied(layer), x, bias)
        return ops.choose(fused_TN, parts, draw, noise.entries)


def is_summed(layer: LinearBase) -> bool:
    """Whether the layer's output is summed over tensor-parallel ranks."""
    return isinstance(layer, RowParallelLinear) and layer.tp_size > 1


def linear_noise(
    state: NoiseState, name: str, layer: LinearBase, outputs: list[Part], method: NoisyMethod
) -> LinearNoise:
    """The noise of a loaded layer; false where no rule selects anything of it.

    Args:
        state: the model's.
        name: the layer's, for the error.
        layer: the layer.
        outputs: the columns that it holds of its sites (`columns.parts_of`).
        method: its method.

    Raises:
        ConfigError: its weights are to have error, or its product to be added up, and this layer
            or this rank can't.
    """
    k = int(getattr(layer, "input_size_per_partition", layer.input_size))
    first = layer.tp_rank * k if isinstance(layer, RowParallelLinear) else 0
    names = dict.fromkeys(part[0] for part in outputs)
    inputs = [Chain.of(state, "input", [(one, k, first)]) for one, *_ in outputs]
    weights = [Chain.of(state, "weight", [(one, k, first)]) for one, *_ in outputs]
    share = layer.tp_rank if is_summed(layer) and state.config.partial else None
    output = Chain.of(state, "output", outputs, share=share)
    product = Product.of(state, "product", outputs)
    if product:
        check_product(name, method.quantised, is_summed(layer) and share is None)
    if any(weights) and method.quantised:
        raise ConfigError(
            f"hetero_noise: {name} has the method {method.quantised}: error on its weights "
            "would have to be put on what they were before it; use the point output or input"
        )
    for (_, width, offset), w in zip(outputs, weights, strict=True):
        check_rows(state, w, width, offset)
    apart = len(names) > 1 and any(inputs)
    held = None
    if any(weights) and all(w.fixed for w in weights):
        held = _held(state, name, layer, outputs, weights, keep=apart or bool(product))
        weights = [Chain("weight", w.parts) for w in weights]
    if not (any(weights) or apart):
        return LinearNoise(state, output, inputs[0], product=product, held=held)
    slices, start = [], 0
    for part, x, w in zip(outputs, inputs, weights, strict=True):
        _, width, offset = part
        own = Product.of(state, "product", [part])
        slices.append(RowSlice(start, width, offset, x, w, state.device, own))
        if held is not None:
            held.followers.append(slices[-1].follow)
        elif not method.quantised:
            slices[-1].follow(layer)
        start += width
    shared = [one for one in slices if one.weight_chain.shares]
    for one in shared:
        one.others = [other for other in shared if other is not one]
    # A method that keeps weights in a form of its own has no plain parts to multiply.
    plain = not (any(weights) or product or method.quantised)
    alike = OneInput.of(state, inputs) if plain else None
    return LinearNoise(state, output, None, slices, held=held, alike=alike)


def _held(
    state: NoiseState,
    name: str,
    layer: nn.Module,
    outputs: list[Part],
    weights: list[Chain],
    keep: bool,
) -> HeldWeight:
    """The weight of a layer with the errors of its parts; arguments as in `linear_noise`."""
    pieces, start = [], 0
    for (_, width, offset), chain in zip(outputs, weights, strict=True):
        rows = torch.arange(offset, offset + width, dtype=torch.int64, device=state.device)
        pieces.append(Piece(start, rows, chain))
        start += width
    return HeldWeight(name, layer, pieces, state, packing(), keep)


def packing() -> Callable[[nn.Module, bool], None] | None:
    """How a layer's weight is packed here (layer, whether to drop it); None: it is not."""
    return dispatch_cpu_unquantized_gemm if current_platform.is_cpu() else None


class _NoisyOutside:
    """A layer that puts the error on its output itself."""

    def forward(self, x: Tensor) -> Any:
        result = super().forward(x)  # type: ignore[misc]
        method = self.quant_method  # type: ignore[attr-defined]
        assert isinstance(method, NoisyMethod) and method.noise is not None
        output, draw = method.noise.output, method.noise.state.draw
        if isinstance(result, tuple):
            return output(result[0], draw, in_place=True), result[1]
        return output(result, draw, in_place=True)


class NoisyRowParallelLinear(_NoisyOutside, RowParallelLinear):
    """A row-parallel layer whose error is added once, after the sum, on every rank alike."""


class NoisyGateLinear(_NoisyOutside, GateLinear):
    """A router, whose kernels may compute past its method."""
