"""What a loaded model's layers are called, and what their classes become."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm")

from torch import nn
from vllm.model_executor.layers.attention import Attention

from hetero_plugin.vllm.layers import NoisyAttention, noisy_attention
from hetero_plugin.vllm.walker import canonical


def decoder() -> nn.Module:
    made = nn.Module()
    made.layers = nn.ModuleList([nn.Linear(2, 2)])
    made.norm = nn.LayerNorm(2)
    return made


def test_names_begin_at_the_decoder_whatever_is_loaded() -> None:
    headed = nn.Module()
    headed.model, headed.score = decoder(), nn.Linear(2, 2)
    bare = decoder()
    bare.pooler = nn.Linear(2, 2)
    for model, outside in ((headed, "score"), (bare, "pooler")):
        names = {canonical(path, model, "model") for path, _ in model.named_modules()}
        assert {"model.layers.0", "model.norm", outside} <= names
    assert canonical("model.layers.0.mlp.up_proj.base_layer", headed, "model") == (
        "model.layers.0.mlp.up_proj"
    )
    assert canonical("layers.0.base_layer", bare, "model") == "model.layers.0"


def test_an_attention_of_another_class_stays_one() -> None:
    class EncoderOnly(Attention):
        def get_kv_cache_spec(self, vllm_config: object) -> None:
            return None

    assert noisy_attention(Attention) is NoisyAttention
    made = noisy_attention(EncoderOnly)
    assert issubclass(made, EncoderOnly) and made.forward is NoisyAttention.forward
    assert made.get_kv_cache_spec is EncoderOnly.get_kv_cache_spec
    assert noisy_attention(EncoderOnly) is made is noisy_attention(made)
