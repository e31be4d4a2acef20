"""Small models that tests of several rooms share; tests/hf/families.py has one of each family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def config_only(path: Path, family: str = "qwen2", **changes: Any) -> str:
    """Saves a config.json alone, which is all that configuring an engine looks at: its folder."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind = CONFIG_MAPPING[family]
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 96,
        "vocab_size": 128,
        "architectures": [MODEL_FOR_CAUSAL_LM_MAPPING[kind].__name__],
    }
    kind(**(sizes | changes)).save_pretrained(path)
    return str(path)


def qwen2(dtype: Any, **changes: Any) -> Any:
    """A Qwen2 with random weights, always the same: two layers of 64."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "initializer_range": 0.05,
    }
    return Qwen2ForCausalLM(Qwen2Config(**(sizes | changes))).to(dtype)
