"""Gives a loaded model its noise: from the site table to the layers that carry the sites."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from vllm.distributed import get_pp_group, get_tensor_model_parallel_rank
from vllm.logger import init_logger
from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

from hetero_plugin.aqn.controller import AQNController
from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.perturb import Chain, Part, chain
from hetero_plugin.sites import Site, fused_parts
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm import spec
from hetero_plugin.vllm.layers import (
    ActivationNoise,
    NoisyAttention,
    NoisyGeluAndMul,
    NoisyGemmaRMSNorm,
    NoisyRMSNorm,
    NoisySiluAndMul,
    NormNoise,
)
from hetero_plugin.vllm.linear import (
    HeadNoise,
    LinearNoise,
    NoisyHeadMethod,
    NoisyLinearMethod,
    NoisyRowParallelLinear,
    RowSlice,
)
from hetero_plugin.vllm.rows import Rows

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = init_logger("vllm.hetero_noise")

FORWARD = ("input", "output", "weight")
CARRIED = {
    "linear": FORWARD,
    "lm_head": FORWARD,
    "router": FORWARD,
    "norm": ("output",),
    "activation": ("output",),
    "attention": ("output",),
}
"""The points of each kind that vLLM's layers can carry."""


@dataclass
class Installed:
    """The noise of one worker's model."""

    config: NoiseConfig
    state: NoiseState
    rows: Rows
    aqn: AQNController | None


class _Attacher:
    """Walks the modules of a loaded model and sets the noise of those that carry sites."""

    def __init__(self, state: NoiseState, sites: tuple[Site, ...], family: str, rows: Rows) -> None:
        self.state, self.family, self.rows = state, family, rows
        self.sites = {site.name: site for site in sites}
        self.carried: set[str] = set()
        self.unmapped: list[tuple[str, str]] = []

    def chain(self, stream: str, parts: list[Part]) -> Chain:
        return chain(self.state, stream, parts)

    def live(self, names: list[str], *streams: str) -> Tensor:
        """The entries of the scale table that a decision between clean and noisy looks at."""
        slots = self.state.slots
        found = [s.index for s in slots if s.site.name in names and s.stream in streams]
        return torch.tensor(found, dtype=torch.int64, device=self.state.device)

    def walk(self, model: nn.Module) -> None:
        _unshare_activations(model)
        for name, module in model.named_modules():
            name = name.removesuffix(".base_layer")  # a LoRA wrapper holds the layer under it
            method = getattr(module, "quant_method", None)
            if isinstance(method, NoisyLinearMethod | NoisyHeadMethod):
                method.attached = True
            if isinstance(module, ParallelLMHead):
                self.head(name, module)
            elif isinstance(module, LinearBase):
                self.linear(name, module)
            elif isinstance(module, RMSNorm | GemmaRMSNorm):
                self.norm(name, module)
            elif isinstance(module, SiluAndMul | GeluAndMul):
                self.activation(name, module)
            elif isinstance(module, Attention):
                self.attention(name, module)

    def claim(self, name: str, *kinds: str) -> bool:
        """Whether a layer carries a site of these kinds; one that carries none is noted."""
        site = self.sites.get(name)
        if site is None or site.kind not in kinds:
            self.unmapped.append((kinds[0], name))
            return False
        self.carried.add(name)
        return True

    def linear(self, name: str, layer: LinearBase) -> None:
        parent, _, leaf = name.rpartition(".")
        names = [f"{parent}.{part}" for part in fused_parts(self.family, leaf) or (leaf,)]
        if not all([self.claim(one, "linear", "router") for one in names]):
            return
        method = layer.quant_method
        if not isinstance(method, NoisyLinearMethod) or len(method.part_sizes) != len(names):
            raise ConfigError(
                f"hetero_noise: {name} ({type(layer).__name__}, {type(method).__name__}) is to "
                f"carry {', '.join(names)}, and does not hold that many parts"
            )
        for one, width in zip(names, method.part_sizes, strict=True):
            whole = width if isinstance(layer, RowParallelLinear | ReplicatedLinear) else None
            if whole is not None and whole != self.sites[one].features:
                raise ConfigError(
                    f"hetero_noise: {one} has {whole} columns in the engine and "
                    f"{self.sites[one].features} in the site table"
                )
        offsets = list(_column_offsets(layer, method.part_sizes))
        outputs = list(zip(names, method.part_sizes, offsets, strict=True))
        k = int(getattr(layer, "input_size_per_partition", layer.input_size))
        first = layer.tp_rank * k if isinstance(layer, RowParallelLinear) else 0
        inputs = [self.chain("input", [(one, k, first)]) for one in names]
        weights = [self.chain("weight", [(one, k, first)]) for one in names]
        summed = isinstance(layer, RowParallelLinear) and layer.tp_size > 1
        share = layer.tp_rank if summed and self.state.config.partial else None
        noise = LinearNoise(chain(self.state, "output", outputs, share=share), inputs[0])
        if any(weights) or (len(names) > 1 and any(inputs)):
            start = 0
            for (_, width, offset), x, w in zip(outputs, inputs, weights, strict=True):
                noise.slices.append(RowSlice(start, width, offset, x, w))
                noise.slices[-1].follow(layer)
                start += width
            noise.input = None
            noise.live = self.live(names, "input", "weight")
        if summed and share is None and noise.output:
            if not layer.reduce_results:
                raise ConfigError(
                    f"hetero_noise: {name} leaves its sum over {layer.tp_size} tensor-parallel "
                    "ranks to a later layer, so there is no place for the error of its output"
                )
            noise.after_reduce = True
            layer.__class__ = NoisyRowParallelLinear
        if noise.output or any(inputs) or noise.slices:
            method.noise = noise

    def head(self, name: str, layer: ParallelLMHead) -> None:
        method = layer.quant_method
        if not self.claim(name, "lm_head"):
            return
        if not isinstance(method, NoisyHeadMethod):
            raise ConfigError(f"hetero_noise: {name} has the method {type(method).__name__}")
        shard = layer.shard_indices
        first, end = shard.org_vocab_start_index, shard.org_vocab_end_index
        k = layer.embedding_dim
        noise = HeadNoise(
            output=self.chain("output", [(name, end - first, first)]),
            input=self.chain("input", [(name, k, 0)]),
            weight=self.chain("weight", [(name, k, 0)]),
            weight_rows=torch.arange(first, end, dtype=torch.int64, device=self.state.device),
            live=self.live([name], "weight"),
            rows=self.rows,
        )
        if noise.output or noise.input or noise.weight:
            method.noise = noise

    def norm(self, name: str, layer: RMSNorm | GemmaRMSNorm) -> None:
        if not self.claim(name, "norm"):
            return
        aqn = self.state.aqn
        offset = aqn.view(name) if aqn is not None and name in aqn else None
        site, width, first = self.sites[name], self.sites[name].features, 0
        if site.heads > 1:  # a norm of each head: this rank has some of the heads
            width, first = _share_of_heads(site, layer.weight.numel())
        output = self.chain("output", [(name, width, first)])
        if output or offset is not None:
            noisy = NoisyGemmaRMSNorm if isinstance(layer, GemmaRMSNorm) else NoisyRMSNorm
            layer.__class__ = noisy
            in_dtype = aqn is not None and aqn.in_dtype
            cast(NoisyRMSNorm, layer).noise = NormNoise(output, offset, in_dtype)

    def activation(self, name: str, layer: SiluAndMul | GeluAndMul) -> None:
        if not self.claim(name, "activation"):
            return
        width, offset = _share(self.sites[name].features)
        output = self.chain("output", [(name, width, offset)])
        if not output:
            return
        if isinstance(layer, GeluAndMul):
            word = "gelu_tanh" if layer.approximate == "tanh" else "gelu"
            layer.__class__ = NoisyGeluAndMul
        else:
            word = "silu"
            layer.__class__ = NoisySiluAndMul
        noise = ActivationNoise(output, self.live([name], "output"), word)
        cast(NoisySiluAndMul, layer).noise = noise

    def attention(self, name: str, layer: Attention) -> None:
        site = name.rpartition(".")[0]
        if not self.claim(site, "attention"):
            return
        width = layer.num_heads * layer.head_size_v
        output = self.chain("output", [(site, width, get_tensor_model_parallel_rank() * width)])
        if output:
            layer.__class__ = NoisyAttention
            cast(NoisyAttention, layer).noise = output


def _unshare_activations(model: nn.Module) -> None:
    """Gives every MLP an activation of its own.

    vLLM keeps one GeluAndMul for all layers of all models of a process; made noisy, it would have
    one layer's noise in each of them, other models included.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SiluAndMul | GeluAndMul):
                setattr(parent, name, copy.copy(child))


def _share(features: int) -> tuple[int, int]:
    """Width and first column of this rank's equal share of a sharded tensor."""
    from vllm.distributed import get_tensor_model_parallel_world_size

    width = features // get_tensor_model_parallel_world_size()
    return width, get_tensor_model_parallel_rank() * width


def _share_of_heads(site: Site, size: int) -> tuple[int, int]:
    """Width and first column of this rank's heads in a norm of each head.

    Args:
        site: its features are those of all heads.
        size: features of one head.
    """
    from vllm.distributed import get_tensor_model_parallel_world_size

    ranks, heads = get_tensor_model_parallel_world_size(), site.features // size
    # With fewer key-value heads than ranks, neighbouring ranks hold the same head.
    mine, copies = max(1, heads // ranks), max(1, ranks // heads)
    return mine * size, get_tensor_model_parallel_rank() // copies * mine * size


def _column_offsets(layer: LinearBase, sizes: list[int]) -> Iterator[int]:
    """The global index of the first column of each part that this rank holds."""
    for i, width in enumerate(sizes):
        if not isinstance(layer, ColumnParallelLinear):
            yield 0
        elif isinstance(layer, QKVParallelLinear) and i > 0:
            # With fewer key-value heads than ranks, neighbouring ranks hold the same head.
            yield layer.tp_rank // layer.num_kv_head_replicas * width
        else:
            yield layer.tp_rank * width


def attach(
    model: nn.Module, state: NoiseState, sites: tuple[Site, ...], hf_config: Mapping[str, Any]
) -> Rows:
    """Sets the noise of every layer of a loaded model, and the hook that writes row keys.

    Raises:
        ConfigError: a selected site that no layer carries, a point that its layer can't carry, or
            (with ``unmapped: error``) a layer of a selected kind that the family's map does not
            name.
    """
    rows = Rows(state)
    walker = _Attacher(state, sites, str(hf_config["model_type"]), rows)
    selected = {slot.site.name: slot.site for slot in state.slots if slot.stream in FORWARD}
    for slot in state.slots:
        if slot.stream in FORWARD and slot.stream not in CARRIED.get(slot.site.kind, ()):
            raise ConfigError(
                f"rule {slot.rule_index} has point {slot.stream!r} at {slot.site.name} (kind "
                f"{slot.site.kind}); in vLLM that kind carries error at: "
                f"{', '.join(CARRIED.get(slot.site.kind, ())) or 'no point'}"
            )
    walker.walk(model)
    missing = sorted(set(selected) - walker.carried)
    if missing:
        raise ConfigError(
            f"{len(missing)} selected sites have no layer in the loaded {type(model).__name__}, "
            f"so they would stay clean: {', '.join(missing)}"
        )
    kinds = {site.kind for site in selected.values()} | ({"norm"} if state.aqn else set())
    unmapped = [name for kind, name in walker.unmapped if kind in kinds]
    if unmapped:
        words = (
            f"layers of {type(model).__name__} that the map of {walker.family!r} does not name: "
            f"{', '.join(unmapped)}"
        )
        if state.config.unmapped == "error":
            raise ConfigError(f"{words}; unmapped='warn' leaves them clean")
        logger.warning("hetero_noise: these stay clean: %s", words)
    model.register_forward_pre_hook(rows.before_forward, with_kwargs=True)
    return rows


def _check_supported() -> None:
    """Refuses what would be wrong rather than noisy."""
    if get_pp_group().world_size > 1:
        raise ConfigError("hetero_noise does not support pipeline parallelism in vLLM yet")


def install(worker: Any) -> Installed | None:
    """Makes a worker's loaded model noisy, if its engine was asked to be; says so in the log.

    Args:
        worker: a vLLM worker whose model has just been loaded and has not run yet.

    Raises:
        ConfigError: see `attach`; no noisy engine runs with a site left out.
    """
    vllm_config = worker.vllm_config
    if not spec.is_noisy(vllm_config):
        return None
    config = spec.settle(vllm_config)
    model = worker.model_runner.get_model()
    _check_supported()
    sites = spec.model_sites(vllm_config)
    state = NoiseState(config, sites, worker.device, max_rows=_most_rows(vllm_config))
    state.set_phase("rollout")
    rows = attach(model, state, sites, vllm_config.model_config.hf_text_config.to_dict())
    _check_head(model)
    aqn = None if config.aqn is None else AQNController(config.aqn, state)
    logger.info("%s", state.describe(f"engine worker {worker.rank}"))
    return Installed(config, state, rows, aqn)


def _most_rows(vllm_config: VllmConfig) -> int:
    """The most rows that a forward pass may have, padding included."""
    sizes = vllm_config.compilation_config.cudagraph_capture_sizes or [0]
    scheduler = vllm_config.scheduler_config
    return max(scheduler.max_num_batched_tokens, scheduler.max_num_seqs, *sizes)


def head_is_noisy(model: nn.Module) -> bool:
    """Whether the LM head needs to know its rows."""
    return any(
        isinstance(method := getattr(module, "quant_method", None), NoisyHeadMethod)
        and method.noise is not None
        for module in model.modules()
    )


def _check_head(model: nn.Module) -> None:
    """vLLM computes a head of another dtype past the head's method: it would be clean."""
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    if not head_is_noisy(model):
        return
    for module in model.modules():
        if isinstance(module, LogitsProcessor):
            dtype = next(model.parameters()).dtype
            if module.head_dtype not in (None, dtype):
                raise ConfigError(
                    f"head_dtype is {module.head_dtype} and the model's {dtype}: vLLM computes "
                    "such a head without its layer, so lm_head would be clean; exclude lm_head, "
                    "or take head_dtype out of hf_overrides"
                )
