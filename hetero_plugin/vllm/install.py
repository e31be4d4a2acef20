"""Gives a loaded model its noise: from the site table to the layers that carry the sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn
from vllm.logger import init_logger

from hetero_plugin.aqn.controller import AQNController
from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.sites import Site, select
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm import refusals, spec
from hetero_plugin.vllm.head import NoisyHeadMethod
from hetero_plugin.vllm.held import HeldWeights
from hetero_plugin.vllm.quantization import is_noisy
from hetero_plugin.vllm.rows import Rows
from hetero_plugin.vllm.walker import Walker

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from hetero_plugin.vllm.probe.logits import Windows

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


class Runner(Protocol):
    """What is used of vLLM's model runners."""

    def get_model(self) -> nn.Module: ...


class Worker(Protocol):
    """What is used of vLLM's workers, of whichever device or executor."""

    vllm_config: VllmConfig
    device: torch.device
    rank: int
    model_runner: Runner


@dataclass
class Installed:
    """The noise of one worker's model."""

    config: NoiseConfig
    state: NoiseState
    rows: Rows
    aqn: AQNController | None
    held: HeldWeights = field(default_factory=HeldWeights)
    """Weights whose error is computed once."""
    loads: int = 0
    """How often weights were loaded since the engine started."""
    tell_rows: Callable[[], None] | None = None
    """From this call on ``rows`` knows which rows the LM head gets; called where it is noisy."""
    windows: Windows | None = None
    """Texts whose logits are compared, while they are."""


def make_noisy(
    model: nn.Module, state: NoiseState, sites: tuple[Site, ...], hf_config: Mapping[str, object]
) -> tuple[Rows, HeldWeights]:
    """Sets the noise of every layer of a loaded model, and the hooks before its passes.

    Raises:
        ConfigError: a selected site that no layer carries, a point that its layer can't carry, or
            (with ``unmapped: error``) a layer of a selected kind that the family's map does not
            name.
    """
    rows = Rows(state)
    walker = Walker(state, sites, str(hf_config["model_type"]), rows)
    # Scores that are selected here belong to a rule of training alone (vllm/spec.py).
    slots = [s for s in state.slots if s.stream in FORWARD and s.site.kind != "attention_scores"]
    selected = {slot.site.name: slot.site for slot in slots}
    for slot in slots:
        if slot.stream not in CARRIED.get(slot.site.kind, ()):
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
    if walker.heads:
        logger.info(
            "hetero_noise: clean, as they are given pooled rows, which are no token's: %s",
            ", ".join(walker.heads),
        )
    model.register_forward_pre_hook(rows.before_forward, with_kwargs=True)
    if walker.held.all:
        model.register_forward_pre_hook(walker.held.before_forward)
    return rows, walker.held


def install(worker: Worker) -> Installed | None:
    """Makes a worker's loaded model noisy, if its engine was asked to be; says so in the log.

    Args:
        worker: a vLLM worker whose model has just been loaded and has not run yet.

    Raises:
        ConfigError: see `make_noisy`; no noisy engine runs with a site left out.
    """
    vllm_config = worker.vllm_config
    if not is_noisy(vllm_config):
        return None
    config = spec.settle(vllm_config)
    model = worker.model_runner.get_model()
    sites = spec.model_sites(vllm_config)
    refusals.refuse(vllm_config, select(config, sites))  # a worker's config may come another way
    state = NoiseState(config, sites, worker.device, max_rows=_most_rows(vllm_config))
    state.set_phase("rollout")
    hf_config = vllm_config.model_config.hf_text_config.to_dict()
    rows, held = make_noisy(model, state, sites, hf_config)
    _check_head(model)
    aqn = None if config.aqn is None else AQNController(config.aqn, state.attach_aqn())
    logger.info("%s", state.describe(f"engine worker {worker.rank}"))
    if held.all:
        held.fresh()
        logger.info("%s", held.describe())
    if vllm_config.lora_config is not None:
        logger.info(
            "hetero_noise: LoRA adapters: error is on the base layers, for every request; what an "
            "adapter adds to them stays clean"
        )
    return Installed(config, state, rows, aqn, held)


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
            head_dtype = getattr(module, "head_dtype", None)  # vLLM 0.24 has none: the model's
            if head_dtype not in (None, dtype):
                raise ConfigError(
                    f"head_dtype is {head_dtype} and the model's {dtype}: vLLM computes "
                    "such a head without its layer, so lm_head would be clean; exclude lm_head, "
                    "or take head_dtype out of hf_overrides"
                )
