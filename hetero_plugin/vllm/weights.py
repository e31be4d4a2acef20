"""Weights of a live engine stay loadable, and what is made of them is made anew after a load."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hetero_plugin.vllm.patching import MARK


def keep(original: Callable[..., Any]) -> Callable[..., Any]:
    """Around the processing of unquantised linear layers: a noisy engine keeps their weights."""

    def process_weights_after_loading(self: Any, layer: Any) -> None:
        from vllm.config import get_current_vllm_config_or_none
        from vllm.platforms import current_platform

        from hetero_plugin.vllm import spec

        config = get_current_vllm_config_or_none()
        if config is not None and current_platform.is_cpu() and spec.is_noisy(config):
            from hetero_plugin.vllm.linear import prepare_gemm

            prepare_gemm(layer)
        else:
            original(self, layer)

    return process_weights_after_loading


def follow_loading(model: Any) -> None:
    """Packs anew what ``model.load_weights`` has written on a live engine.

    vLLM's CPU GEMM reads a packed copy of each weight; verl processes the weights after a sync, a
    caller of ``load_weights`` alone does not, and would go on computing with the old ones.
    """
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
        UnquantizedFusedMoEMethod,
    )
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
    from vllm.platforms import current_platform

    plain = (UnquantizedLinearMethod, UnquantizedEmbeddingMethod, UnquantizedFusedMoEMethod)
    original = model.load_weights
    if not current_platform.is_cpu() or getattr(original, MARK, False):
        return

    @functools.wraps(original)
    def load_weights(*args: Any, **kwargs: Any) -> Any:
        loaded = original(*args, **kwargs)
        for module in model.modules():
            method = getattr(module, "quant_method", None)
            # What a checkpoint's own quantization makes of its weights is made once, as in vLLM.
            if isinstance(method, plain):
                method.process_weights_after_loading(module)
        return loaded

    setattr(load_weights, MARK, True)
    model.load_weights = load_weights
