"""A tiny random model of every family, with settings that are unlike those of the others."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

COMMON: dict[str, Any] = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.15,
    tie_word_embeddings=False,
    pad_token_id=0,
    bos_token_id=None,
    eos_token_id=None,
)
EXPERTS: dict[str, Any] = dict(
    num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True
)
FAMILY: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": dict(head_dim=16),
    "llama": dict(mlp_bias=True, attention_bias=True),
    "mistral": dict(head_dim=16, sliding_window=8),
    "phi3": dict(num_key_value_heads=1, original_max_position_embeddings=128, sliding_window=8),
    "gemma2": dict(
        head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=8,
        query_pre_attn_scalar=12,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3_text": dict(head_dim=16, sliding_window=8, sliding_window_pattern=2),
    "olmo2": dict(num_attention_heads=8, num_key_value_heads=4),
    "qwen2_moe": dict(EXPERTS, shared_expert_intermediate_size=40, mlp_only_layers=[0]),
    "qwen3_moe": dict(EXPERTS, head_dim=16, num_hidden_layers=3, decoder_sparse_step=2),
}
MOE = ("qwen2_moe", "qwen3_moe")


def family_config(family: str, **changes: Any) -> Any:
    return AutoConfig.for_model(family, **(COMMON | FAMILY[family] | changes))


def make_family(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """The same model for the same arguments, in evaluation mode."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family_config(family, **changes)).to(dtype).eval()
    with torch.no_grad():  # norms of 1 (Gemma: 0) would hide a wrong AQN formula
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(-0.5, 1.5) if "gemma" in family else parameter.uniform_(0.3, 2.5)
    return model


def tokens(batch: int = 2, length: int = 9, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, 96, (batch, length), generator=torch.Generator().manual_seed(seed))
