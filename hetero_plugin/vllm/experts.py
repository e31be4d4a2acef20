"""Mixture of experts: error at the GEMMs inside vLLM's fused experts.

vLLM's fused kernels take a token through both GEMMs of an expert at once and leave no place for
error between them. While some scale is not 0 the experts run here instead, GEMM by GEMM as in the
Hugging Face model, inside one opaque operator; at scale 0 that operator is vLLM's own kernel.

A row of an expert's operator is a token at an expert, keyed by both
(`hetero_plugin.operator.grouped`), as in Hugging Face (hf/experts.py).

T tokens, K experts of a token, S = T · K rows, H hidden size, I width of an expert on this rank,
E experts.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)
from vllm.platforms import current_platform

from hetero_plugin.config import ConfigError
from hetero_plugin.operator import Chain, grouped
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm.held import Held, Piece, alike, digest, with_error
from hetero_plugin.vllm.linear import check_attached
from hetero_plugin.vllm.ops import ACTIVATIONS, entries_of

_GATES = {
    MoEActivation.SILU: "silu",
    MoEActivation.GELU: "gelu",
    MoEActivation.GELU_TANH: "gelu_tanh",
}
_GROUPED_KERNELS = ((9, 0), (10, 0))
"""Capabilities of the GPUs for which PyTorch has a grouped GEMM that does not wait for the host."""
_WEIGHTS = ("w13_weight", "w2_weight")
_PLAIN_WEIGHTS = (UnquantizedMoeBackend.CPU, UnquantizedMoeBackend.TRITON)
"""Backends beside which the weights stay as they were loaded."""


@dataclass
class GemmNoise:
    """What is added at one of the two GEMMs of a layer's experts."""

    input: Chain
    weight: Chain
    output: Chain
    weight_rows: Tensor
    """int64 [E · rows of a matrix on this rank]: their numbers in the whole layer, one expert's
    after the other's."""


@dataclass
class FusedExpertsNoise:
    """What is added in a layer's experts."""

    state: NoiseState
    gate_up: GemmNoise
    act: Chain
    down: GemmNoise
    activation: str
    held: HeldExperts | None = None
    """The weights with their error, where that is fixed; the chains of the weights are then
    empty."""
    entries: Tensor = field(init=False)
    """int64: those of the scale table that decide between vLLM's kernel and `noisy_experts`."""

    def __post_init__(self) -> None:
        self.find_entries()

    def hold(self, name: str, layer: Any, method: NoisyExpertsMethod) -> None:
        """Has the weights computed once, if their error is fixed."""
        weights = (self.gate_up.weight, self.down.weight)
        if any(weights) and all(chain.fixed for chain in weights):
            self.held = HeldExperts(name, layer, method, self)
            self.find_entries()

    def find_entries(self) -> None:
        """Finds the entries of the chains that act in a pass."""
        gemms = (
            chain for g in (self.gate_up, self.down) for chain in (g.input, g.weight, g.output)
        )
        self.entries = entries_of(self.state, self.act, *gemms)


def grouped_linear(x_SN: Tensor, weight_EON: Tensor, ends_E: Tensor) -> Tensor:
    """Each group of rows times the matrix of its expert: [S, O].

    Args:
        x_SN: rows, those of expert 0 first.
        weight_EON: one matrix for each expert.
        ends_E: int32, the row after each expert's last.

    Raises:
        RuntimeError: a CUDA graph is being captured, and PyTorch has no kernel for this dtype and
            GPU that could be in one: it would take the ends to the host.
    """
    if x_SN.is_cuda and torch.cuda.is_current_stream_capturing():
        _check_capture(x_SN)
    return F.grouped_mm(x_SN, weight_EON.transpose(-2, -1), offs=ends_E)


def _check_capture(x: Tensor) -> None:
    capability = torch.cuda.get_device_capability(x.device)
    if x.dtype != torch.bfloat16 or capability not in _GROUPED_KERNELS:
        known = " and ".join(f"{major}.{minor}" for major, minor in _GROUPED_KERNELS)
        raise RuntimeError(
            "hetero_noise: experts with error run in a CUDA graph in bfloat16 on GPUs of "
            f"capability {known}; these are {str(x.dtype).removeprefix('torch.')} on one of "
            f"{capability[0]}.{capability[1]}. Start the engine with enforce_eager=True, or "
            "exclude '*.mlp.experts.*'"
        )


def noisy_experts(
    noise: FusedExpertsNoise,
    x_TH: Tensor,
    w13: Tensor,
    w2: Tensor,
    weights_TK: Tensor,
    ids_TK: Tensor,
    on: Tensor | None = None,
) -> Tensor:
    """The experts with error at each operator, [T, H]; no synchronisation with the host.

    Args:
        x_TH: bfloat16, float16 or float32; its rows are the first rows of the pass.
        w13: [E, 2 I, H], the gate's rows and then the up-projection's.
        w2: [E, H, I].
        weights_TK, ids_TK: the router's weights, float32, and experts, integer.
        on: one bool; where it is false the GEMMs have no rows, and the result means nothing.
    """
    draw = noise.state.draw
    by = grouped(ids_TK, w13.shape[0], draw.keys, stable=True)
    ends = by.ends if on is None else by.ends * on
    rows = draw.of(by.keys)

    def gemm(at: GemmNoise, x: Tensor, weight: Tensor) -> Tensor:
        if at.input:
            x = at.input(x, rows)
        if at.weight:
            weight = at.weight(weight, draw.of(at.weight_rows))
        y = grouped_linear(x, weight, ends)
        return at.output(y, rows) if at.output else y

    gate, up = gemm(noise.gate_up, x_TH[by.tokens], w13).chunk(2, dim=-1)
    gate = ACTIVATIONS[noise.activation](gate)
    if noise.act:
        gate = noise.act(gate, rows)
    h = gemm(noise.down, gate * up, w2)
    # Summed in float32 and rounded once, as vLLM's kernels do.
    h_TKH = by.ungrouped(h).view(*ids_TK.shape, -1).float() * weights_TK.float().unsqueeze(-1)
    return h_TKH.sum(dim=1).to(x_TH.dtype)


# The operator finds its layer by a number that it is given in a tensor: a tensor is an input of the
# compiled graph, so layers of one shape share one graph, and a cached graph of another process or
# engine holds no layer of its own.
_LAYERS: WeakValueDictionary[int, NoisyExpertsMethod] = WeakValueDictionary()
_numbers = itertools.count()


@torch.library.custom_op("hetero_noise_vllm::experts", mutates_args=())
def _experts(
    x: Tensor,
    w13: Tensor,
    w2: Tensor,
    weights: Tensor,
    ids: Tensor,
    scales: Tensor,
    entries: Tensor,
    number: Tensor,
) -> Tensor:
    method = _LAYERS[int(number)]
    noise = method.noise
    assert noise is not None
    on = (scales[entries] != 0).any()
    if x.device.type == "cpu":
        if bool(on):
            return noisy_experts(noise, x, w13, w2, weights, ids)
        return method.clean(x, weights, ids)
    # The host does not wait to know which: both run, the noisy one at scale 0 on no rows.
    noisy = noisy_experts(noise, x, w13, w2, weights, ids, on)
    return torch.where(on, noisy, method.clean(x, weights, ids))


@_experts.register_fake
def _(
    x: Tensor,
    w13: Tensor,
    w2: Tensor,
    weights: Tensor,
    ids: Tensor,
    scales: Tensor,
    entries: Tensor,
    number: Tensor,
) -> Tensor:
    return torch.empty_like(x)


class HeldExperts(Held):
    """Both weights of a layer's experts with their error, for vLLM's kernel and for ours.

    Args:
        name: of the layer.
        layer: has the clean weights.
        method: its method, which gives vLLM's kernel what is made here.
        noise: of the layer; its chains of weights are taken out of it.
    """

    def __init__(
        self, name: str, layer: Any, method: NoisyExpertsMethod, noise: FusedExpertsNoise
    ) -> None:
        self.name, self.state, self.method = name, noise.state, method
        self._layer = layer
        gemms = (noise.gate_up, noise.down)
        self._pieces = [Piece(0, gemm.weight_rows, gemm.weight) for gemm in gemms]
        self.slots = tuple(slot for gemm in gemms for slot in gemm.weight.slots)
        self.weights = [
            nn.Parameter(torch.empty_like(weight), requires_grad=False) for weight in self.sources()
        ]
        for gemm in gemms:
            gemm.weight = Chain("weight", gemm.weight.parts)

    def sources(self) -> list[Tensor]:
        return [self._layer.get_parameter(name) for name in _WEIGHTS]

    def refresh(self) -> None:
        for clean, piece, weight in zip(self.sources(), self._pieces, self.weights, strict=True):
            with_error(clean.data, [piece], self.state, weight.data)
        self.method.give_kernel(self._layer, dict(zip(_WEIGHTS, self.weights, strict=True)))

    def is_current(self) -> bool:
        same = True
        for clean, piece, weight in zip(self.sources(), self._pieces, self.weights, strict=True):
            now = torch.empty_like(clean.data)
            with_error(clean.data, [piece], self.state, now)
            same &= alike(digest([now]), digest([weight]))
        return same

    def extra_bytes(self) -> int:
        return sum(weight.nbytes for weight in self.weights)


class NoisyExpertsMethod(UnquantizedFusedMoEMethod):
    """vLLM's own method for unquantised experts, with error once `noise` is set.

    The weights stay as they are loaded: the noisy path reads them, and the next weight sync writes
    them. What vLLM's kernel makes of them (on CPU, a packed copy) is held beside them.
    """

    def __init__(self, moe: Any) -> None:
        super().__init__(moe)
        self.supports_pre_processed_weights = False
        self.noise: FusedExpertsNoise | None = None
        self.attached = False
        # In a list: as a submodule its weights would be the model's, a second time.
        self._kernel_layer: list[Any] = []
        # On the host, whatever device vLLM builds the model on: it is read in every pass.
        self.number = torch.tensor([next(_numbers)], dtype=torch.int64, device="cpu")
        _LAYERS[int(self.number)] = self

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Runs after the first load and after every weight sync."""
        if self.noise is not None and self.noise.held is not None:
            self.noise.held.outdate()
        else:
            self.give_kernel(layer, {})

    def give_kernel(self, layer: nn.Module, weights: dict[str, nn.Parameter]) -> None:
        """Makes what vLLM's kernel reads: of the layer's weights, or of others in their place."""
        beside = copy.copy(layer)
        beside._parameters = {**layer._parameters, **weights}
        if current_platform.is_cpu():
            self.moe_kernel = None  # or vLLM would copy the weights without packing them
        super().process_weights_after_loading(beside)  # type: ignore[arg-type]
        if not self._kernel_layer or not current_platform.is_cpu():
            self._kernel_layer = [beside]
            return
        # Where compiled code reads them.
        for name, weight in self._kernel_layer[0].named_parameters(recurse=False):
            weight.data.copy_(beside.get_parameter(name).data)

    def clean(self, x: Tensor, topk_weights: Tensor, topk_ids: Tensor) -> Tensor:
        """vLLM's own experts, [T, H]; arguments as in `noisy_experts`."""
        # The experts' shared expert has run: only kernels that overlap the two are given it.
        return self.forward_native(self._kernel_layer[0], x, topk_weights, topk_ids, None, None)

    def apply(  # type: ignore[override]  # vLLM's, not that of torch's modules
        self,
        layer: Any,
        x: Tensor,
        topk_weights: Tensor,
        topk_ids: Tensor,
        shared_experts: Any,
        shared_experts_input: Tensor | None,
    ) -> Tensor:
        noise = self.noise
        if noise is None:
            check_attached(self.attached)
        if noise is None or noise.entries.numel() == 0:  # or error is on its weights alone
            return super().apply(
                self._kernel_layer[0],
                x,
                topk_weights,
                topk_ids,
                shared_experts,
                shared_experts_input,
            )
        w13, w2 = layer.w13_weight, layer.w2_weight
        if noise.held is not None:
            w13, w2 = noise.held.weights
        return torch.ops.hetero_noise_vllm.experts(
            x,
            w13,
            w2,
            topk_weights,
            topk_ids,
            noise.state.scales,
            noise.entries,
            self.number,
        )

    def apply_monolithic(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        check_attached(self.attached)
        assert self.noise is None
        return super().apply_monolithic(self._kernel_layer[0], *args, **kwargs)


def activation_of(layer: Any, site: str) -> str:
    """Name of the gate's activation, for `FusedExpertsNoise`.

    Raises:
        ConfigError: these experts can't be run one GEMM after the other: their kernel, their gate
            or their parallelism is one whose steps are not known.
    """
    method, config = layer.quant_method, layer.moe_config
    problem = None
    if not isinstance(method, NoisyExpertsMethod):
        problem = (
            f"their method is {type(method).__name__} (LoRA adapters on experts, quantised experts "
            "and data-parallel experts have kernels of their own)"
        )
    elif method.unquantized_backend not in _PLAIN_WEIGHTS:
        problem = (
            f"vLLM's kernel is {method.unquantized_backend.value}, which rearranges the weights; "
            "start the engine with moe_backend='triton'"
        )
    elif method.is_monolithic:
        problem = "vLLM's kernel routes and computes in one step, as 0.24's on a CPU"
    elif layer.activation not in _GATES or method.moe.has_bias:
        problem = f"their gate is {layer.activation.value}, or they have a bias"
    elif layer.apply_router_weight_on_input:
        problem = "the router's weight is on their input"
    elif config.moe_parallel_config.use_ep or config.moe_parallel_config.dp_size > 1:
        problem = "they are spread over ranks (expert or data parallelism)"
    elif config.is_sequence_parallel:
        problem = "their rows are spread over ranks (sequence parallelism)"
    if problem is not None:
        raise ConfigError(
            f"hetero_noise: the experts of {site} can't have error: {problem}. "
            "Exclude '*.mlp.experts.*' to run the rest"
        )
    return _GATES[layer.activation]
