"""Faults that versions of vLLM bring: a tied head that is elsewhere, or computed elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState
from tests.faults.registry import fault, refused

SITES = (Site("lm_head", "lm_head", None, 6, 4),)


def _tied(name: str) -> tuple[nn.Module, NoiseState]:
    """A model whose head is its embedding under a second name, as in vLLM 0.24."""
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        UnquantizedEmbeddingMethod,
        VocabParallelEmbedding,
    )

    embed: Any = VocabParallelEmbedding.__new__(VocabParallelEmbedding)
    nn.Module.__init__(embed)
    embed.weight = nn.Parameter(torch.randn(6, 4), requires_grad=False)
    embed.embedding_dim, embed.quant_method = 4, UnquantizedEmbeddingMethod()
    embed.shard_indices = SimpleNamespace(org_vocab_start_index=0, org_vocab_end_index=6)
    model = nn.Module()
    model.embed_tokens = embed
    setattr(model, name, embed)
    return model, NoiseState(NoiseConfig(targets=["lm_head"], scale=0.1), SITES, max_rows=8)


@fault(
    "the LM head's error",
    "a vLLM whose tied head is the embedding, under a name that is not lm_head",
    "ConfigError with the site",
    by="error",
    engine="vllm",
)
def tied_head_of_another_name() -> str:
    from hetero_plugin.vllm.install import make_noisy

    model, state = _tied("output_embedding")
    return refused(
        lambda: make_noisy(model, state, SITES, {"model_type": "qwen2"}),
        "would stay clean: lm_head",
        kind=ConfigError,
    )


@fault(
    "the LM head's error",
    "a tied head that is the embedding, computed in another dtype past its method",
    "ConfigError with both dtypes",
    by="error",
    engine="vllm",
)
def tied_head_of_another_dtype() -> str:
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    from hetero_plugin.vllm.install import _check_head, make_noisy

    model, state = _tied("lm_head")
    make_noisy(model, state, SITES, {"model_type": "qwen2"})
    processor: Any = LogitsProcessor.__new__(LogitsProcessor)
    nn.Module.__init__(processor)
    processor.head_dtype = torch.float64
    model.logits_processor = processor
    return refused(lambda: _check_head(model), "torch.float64", "torch.float32", kind=ConfigError)
