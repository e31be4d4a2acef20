"""A tiny model of each family for engines, and its noise; tests/hf/families.py has them for HF.

In float32 and bfloat16 they are of other shapes, so that each family is met in two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

PROMPTS = [[3 + (j * 11 + i * 7 + j * j) % 190 for j in range(39 + 13 * i)] for i in range(8)]
AQN = {"schedule": "constant", "sigma_start": 0.05, "total_steps": 10}
DENSE: dict[str, Any] = {
    "rules": [{"targets": ["linear", "norm", "activation", "attention"], "scale": 0.05}],
    "aqn": AQN,
    "seed": 5,
}
COMMON: dict[str, Any] = {
    "vocab_size": 199,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
HEADS = {"head_dim": 32}  # where the family has a head of another size than hidden / heads
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": HEADS,
    "llama": HEADS,
    "mistral": HEADS | {"sliding_window": None},
    "gemma3_text": HEADS | {"sliding_window": 64, "query_pre_attn_scalar": 32},
    "phi3": {"num_key_value_heads": 4, "original_max_position_embeddings": 512},
    "gemma2": {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "sliding_window": 64,
        "query_pre_attn_scalar": 32,
        "tie_word_embeddings": True,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 5.0,
    },
    "olmo2": {"tie_word_embeddings": True},
    # A dense layer first, a shared expert with a gate, weights of the router that don't add to 1.
    "qwen2_moe": EXPERTS
    | {"mlp_only_layers": [0], "shared_expert_intermediate_size": 96, "norm_topk_prob": False},
    "qwen3_moe": EXPERTS | HEADS | {"norm_topk_prob": True},
}
FEW_EXPERTS = EXPERTS | {"num_experts": 4, "norm_topk_prob": True}
IN_BFLOAT16: dict[str, dict[str, Any]] = {
    **FAMILIES,
    "phi3": {"num_key_value_heads": 1, "original_max_position_embeddings": 512},
    "gemma2": HEADS
    | {"sliding_window": 64, "query_pre_attn_scalar": 32, "tie_word_embeddings": True},
    "olmo2": {"num_key_value_heads": 4},
    "qwen2_moe": FEW_EXPERTS | {"shared_expert_intermediate_size": 96},
    "qwen3_moe": FEW_EXPERTS | HEADS,
}
# transformers' sdpa attention leaves Gemma 2's soft-capping of scores out.
ATTENTION = {"gemma2": "eager"}


FIXED = {"qwen2_moe": "*.1.mlp.experts.*_proj", "qwen3_moe": "*.0.mlp.experts.*_proj"}
"""Experts whose weights are in a number format: beside other errors, and alone."""
RANDOM = {"qwen2_moe": ["router"], "qwen3_moe": ["router", "*.1.mlp.experts.*_proj"]}


def spec(family: str) -> dict[str, Any]:
    """All kinds and AQN, in experts' case at all points."""
    if family not in FIXED:
        return DENSE
    every = {
        "targets": ["linear", "norm", "activation", "attention", "router"],
        # Of Qwen3-MoE layer 0's experts have error on their weights alone.
        "exclude": ["*.0.mlp.experts.*"] if family == "qwen3_moe" else [],
        "scale": 0.05,
    }
    rules = [
        every,
        {"targets": ["*.1.mlp.experts.*_proj", "router"], "point": "input", "scale": 0.02},
        {"targets": RANDOM[family], "point": "weight", "scale": 0.02},
        {"targets": [FIXED[family]], "error": "mxfp4", "point": "weight"},
    ]
    return {"rules": rules, "aqn": AQN, "seed": 5}


def make(family: str, path: Path, dtype: str = "float32", **changes: Any) -> Any:
    """A small model of a family, saved and at hand."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    shape = (FAMILIES if dtype == "float32" else IN_BFLOAT16)[family]
    config = AutoConfig.for_model(family, **(COMMON | shape | changes))
    attention = ATTENTION.get(family)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.to(getattr(torch, dtype)).save_pretrained(path)
    return model
