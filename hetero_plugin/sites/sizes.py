"""Sizes of a model's operators, as its config.json gives them."""

from __future__ import annotations

from collections.abc import Mapping

from hetero_plugin.config import ConfigError

__all__ = [
    "Config",
    "Sizes",
    "decoder",
    "experts",
    "fused",
    "headed",
    "shared_expert",
    "sparse_layers",
    "ungrouped",
]

Config = Mapping[str, object]
"""A config.json."""
Sizes = dict[str, int]
"""The sizes that a family's entries name."""


def _integer(config: Config, key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        state = f"{key}: got {value!r}" if key in config else f"{key} is missing"
        raise ConfigError(
            f"model config: {state}; it should be an integer ≥ 1, as in the config.json of a "
            "Hugging Face checkpoint."
        )
    return value


def decoder(config: Config) -> Sizes:
    """Sizes of a grouped-query decoder with a gated MLP."""
    hidden, heads = _integer(config, "hidden_size"), _integer(config, "num_attention_heads")
    head = hidden // heads if config.get("head_dim") is None else _integer(config, "head_dim")
    groups = _integer(config, "num_key_value_heads")
    return {
        "layers": _integer(config, "num_hidden_layers"),
        "hidden": hidden,
        "intermediate": _integer(config, "intermediate_size"),
        "heads": heads,
        "groups": groups,
        "queries": heads * head,
        "keys": groups * head,
        "vocab": _integer(config, "vocab_size"),
    }


def headed(config: Config) -> Sizes:
    """For families whose default head size is not hidden_size / heads: it has to be there."""
    _integer(config, "head_dim")
    return decoder(config)


def ungrouped(config: Config) -> Sizes:
    """For families where a config without num_key_value_heads has one for each head."""
    if config.get("num_key_value_heads") is None:
        config = {**config, "num_key_value_heads": config.get("num_attention_heads")}
    return decoder(config)


def fused(config: Config) -> Sizes:
    """For families whose attention has one matrix for q, k and v, and whose MLP one for gate and
    up, in the Hugging Face model."""
    sizes = ungrouped(config)
    return {
        **sizes,
        "queries_keys_values": sizes["queries"] + 2 * sizes["keys"],
        "gate_up": 2 * sizes["intermediate"],
    }


def experts(config: Config) -> Sizes:
    """For families with experts."""
    # transformers ≥ 5.6 writes Qwen3-MoE's number of experts under another name.
    count = "num_experts" if "num_experts" in config else "num_local_experts"
    expert = _integer(config, "moe_intermediate_size")
    return {
        **decoder(config),
        "experts": _integer(config, count),
        "expert": expert,
        "expert_gate_up": 2 * expert,
    }


def shared_expert(config: Config) -> Sizes:
    """For families with an expert that sees every token."""
    shared = _integer(config, "shared_expert_intermediate_size")
    return {**experts(config), "shared": shared, "one": 1}


def sparse_layers(config: Config) -> list[int]:
    """The layers with experts, as Qwen-MoE's decoder layers decide it."""
    dense = config.get("mlp_only_layers") or ()
    step = config.get("decoder_sparse_step", 1)
    if not isinstance(dense, list | tuple) or not isinstance(step, int) or step < 1:
        raise ConfigError(
            f"model config: mlp_only_layers is {dense!r} and decoder_sparse_step {step!r}; they "
            "should be a list of layer numbers and an integer ≥ 1."
        )
    layers = range(_integer(config, "num_hidden_layers"))
    return [i for i in layers if i not in dense and (i + 1) % step == 0]
