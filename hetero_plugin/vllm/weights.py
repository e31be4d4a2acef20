"""Weights of a live engine stay loadable, and what is made of them is made anew after a load."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from torch import nn

from hetero_plugin.vllm.patching import MARK, Function

if TYPE_CHECKING:
    from vllm.model_executor.layers.linear import LinearMethodBase
    from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
    from vllm.v1.engine.core import EngineCore

    from hetero_plugin.vllm.held import HeldWeights


class Loadable(Protocol):
    """A model of vLLM's, whose weights can be loaded again."""

    load_weights: Callable[..., object]

    def modules(self) -> Iterator[nn.Module]: ...


class CountsLoads(Protocol):
    """The noise of a worker (`install.Installed`), as far as loading goes."""

    loads: int
    held: HeldWeights


_LOADS = "hetero_noise_loads_seen"


def keep(original: Function) -> Function:
    """Around the processing of unquantised linear layers: a noisy engine keeps their weights."""

    def process_weights_after_loading(self: LinearMethodBase, layer: nn.Module) -> None:
        from vllm.config import get_current_vllm_config_or_none
        from vllm.platforms import current_platform

        from hetero_plugin.vllm.quantization import is_noisy

        config = get_current_vllm_config_or_none()
        if config is not None and current_platform.is_cpu() and is_noisy(config):
            from hetero_plugin.vllm.linear import prepare_gemm

            prepare_gemm(layer)
        else:
            original(self, layer)

    return process_weights_after_loading


def follow_loading(model: Loadable, installed: CountsLoads | None) -> None:
    """Counts what ``model.load_weights`` does on a live engine, and on CPU packs the weights anew.

    vLLM's CPU GEMM reads a packed copy of each weight; verl processes the weights after a sync, a
    caller of ``load_weights`` alone does not, and would go on computing with the old ones.

    Args:
        model: of one worker, loaded.
        installed: its noise, which keeps the count; None: the engine is clean.
    """
    original = model.load_weights
    if installed is None or getattr(original, MARK, False):
        return

    @functools.wraps(original)
    def load_weights(*args: object, **kwargs: object) -> object:
        installed.loads += 1  # first: a load that fails has written some of them
        installed.held.outdate()
        loaded = original(*args, **kwargs)
        _repack(model)
        return loaded

    setattr(load_weights, MARK, True)
    model.load_weights = load_weights


def _repack(model: Loadable) -> None:
    """Processes plain weights as after loading, where vLLM computes with a packed copy."""
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
        UnquantizedFusedMoEMethod,
    )
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    plain = (UnquantizedLinearMethod, UnquantizedEmbeddingMethod, UnquantizedFusedMoEMethod)
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        # What a checkpoint's own quantization makes of its weights is made once, as in vLLM.
        if isinstance(method, plain):
            base: QuantizeMethodBase = method
            base.process_weights_after_loading(module)


def were_loaded(engine: EngineCore, rpc: Function) -> bool:
    """Whether some worker of a noisy engine has loaded weights since this was asked last.

    Args:
        engine: vLLM's EngineCore.
        rpc: its ``collective_rpc``.
    """
    from hetero_plugin.vllm.quantization import is_noisy

    if not is_noisy(engine.vllm_config):
        return False
    # The time limit is for workers that did not answer the call before this one either.
    loads = rpc(engine, "hetero_noise_loads", 60.0)
    before = getattr(engine, _LOADS, [0] * len(loads))
    setattr(engine, _LOADS, loads)
    return bool(loads != before)
