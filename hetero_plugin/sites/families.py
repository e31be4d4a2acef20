"""The table of model families: one entry holds all that is known of an architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hetero_plugin.sites import sizes
from hetero_plugin.sites.family import Entry, Family, Names

__all__ = ["ATTENTION", "FAMILIES", "FUSED", "OTHERS", "PLAIN", "QKV", "QK_NORMS", "dense"]

_NORM_IN = Entry("input_layernorm", "norm", "hidden")
_NORM_MLP = Entry("post_attention_layernorm", "norm", "hidden")
_NORM_BEFORE_MLP = Entry("pre_feedforward_layernorm", "norm", "hidden")
_NORM_AFTER_MLP = Entry("post_feedforward_layernorm", "norm", "hidden")
QKV = (
    Entry("self_attn.q_proj", "linear", "queries", "hidden"),
    Entry("self_attn.k_proj", "linear", "keys", "hidden"),
    Entry("self_attn.v_proj", "linear", "keys", "hidden"),
)
QK_NORMS = (
    Entry("self_attn.q_norm", "norm", "queries", heads="heads"),
    Entry("self_attn.k_norm", "norm", "keys", heads="groups"),
)
_WHOLE_NORMS = (
    Entry("self_attn.q_norm", "norm", "queries"),
    Entry("self_attn.k_norm", "norm", "keys"),
)
ATTENTION = (
    Entry("self_attn.scores", "attention_scores", "heads"),
    Entry("self_attn.softmax", "attention_scores", "heads"),
    Entry("self_attn", "attention", "queries"),
    Entry("self_attn.o_proj", "linear", "hidden", "queries"),
)


def _mlp(path: str, width: str) -> tuple[Entry, ...]:
    return (
        Entry(f"{path}.gate_proj", "linear", width, "hidden"),
        Entry(f"{path}.up_proj", "linear", width, "hidden"),
        Entry(f"{path}.act_fn", "activation", width),
        Entry(f"{path}.down_proj", "linear", "hidden", width),
    )


_MLP = _mlp("mlp", "intermediate")
# All experts of a layer are one operator, as in transformers 5: a row is a token at an expert.
# gate_up_proj is one GEMM, its columns the gate's and then the up-projection's.
_ROUTER = Entry("mlp.gate", "router", "experts", "hidden")
_EXPERTS = (
    Entry("mlp.experts.gate_up_proj", "linear", "expert_gate_up", "hidden"),
    Entry("mlp.experts.act_fn", "activation", "expert"),
    Entry("mlp.experts.down_proj", "linear", "hidden", "expert"),
)
# Decides nothing discrete, but weighs a whole expert by one number: with the routers.
_SHARED_GATE = Entry("mlp.shared_expert_gate", "router", "one", "hidden")

# With tied embeddings lm_head still multiplies, so it is a site all the same.
_OUTSIDE = (
    Entry("model.norm", "norm", "hidden"),
    Entry("lm_head", "lm_head", "vocab", "hidden"),
)
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
PLAIN = (_NORM_IN, *QKV, *ATTENTION, _NORM_MLP, *_MLP)
"""A layer of the usual build: norms before attention and MLP, grouped queries, a gated MLP."""
_NORMED = (_NORM_IN, *QKV, *QK_NORMS, *ATTENTION, _NORM_MLP, *_MLP)


def dense(
    architecture: str,
    read: Callable[[sizes.Config], sizes.Sizes],
    per_layer: tuple[Entry, ...],
    **more: Any,
) -> Family:
    """The entry of a decoder without experts.

    Args:
        architecture: class of the language model, as in config.json.
        read: reads the sizes, see sites/sizes.py.
        per_layer: the sites of a layer, in the order of the forward pass.
        more: further fields of `Family`.
    """
    fields: dict[str, Any] = {"outside": _OUTSIDE, "fused": FUSED, **more}
    return Family((architecture,), read, per_layer, **fields)


_TOKENS_FIRST, _HEADS_FIRST = Names(heads_first=False), Names(heads_first=True)
_EXPERTS_NORM = "post_attention_layernorm"

FAMILIES: dict[str, Family] = {
    "qwen2": dense("Qwen2ForCausalLM", sizes.decoder, PLAIN),
    "qwen3": dense("Qwen3ForCausalLM", sizes.headed, _NORMED, names=_TOKENS_FIRST),
    "llama": dense("LlamaForCausalLM", sizes.ungrouped, PLAIN),
    "mistral": dense("MistralForCausalLM", sizes.decoder, PLAIN),
    # One matrix for q, k and v and one for gate and up in the Hugging Face model: one site each.
    "phi3": dense(
        "Phi3ForCausalLM",
        sizes.fused,
        (
            _NORM_IN,
            Entry("self_attn.qkv_proj", "linear", "queries_keys_values", "hidden"),
            *ATTENTION,
            _NORM_MLP,
            Entry("mlp.gate_up_proj", "linear", "gate_up", "hidden"),
            Entry("mlp.activation_fn", "activation", "intermediate"),
            Entry("mlp.down_proj", "linear", "hidden", "intermediate"),
        ),
        fused={"act_fn": ("activation_fn",)},
    ),
    # Norms before and after attention and MLP; vLLM's model has no head but its embedding.
    "gemma2": dense(
        "Gemma2ForCausalLM",
        sizes.headed,
        (_NORM_IN, *QKV, *ATTENTION, _NORM_MLP, _NORM_BEFORE_MLP, *_MLP, _NORM_AFTER_MLP),
        engine_head="model.embed_tokens",
    ),
    "gemma3_text": dense(
        "Gemma3ForCausalLM",
        sizes.headed,
        (
            _NORM_IN,
            *QKV,
            *QK_NORMS,
            *ATTENTION,
            _NORM_MLP,
            _NORM_BEFORE_MLP,
            *_MLP,
            _NORM_AFTER_MLP,
        ),
        names=_HEADS_FIRST,
    ),
    # Norms after attention and MLP alone; q_norm and k_norm are of all heads together.
    "olmo2": dense(
        "Olmo2ForCausalLM",
        sizes.ungrouped,
        (*QKV, *_WHOLE_NORMS, *ATTENTION, _NORM_MLP, *_MLP, _NORM_AFTER_MLP),
    ),
    "qwen2_moe": Family(
        ("Qwen2MoeForCausalLM",),
        sizes.shared_expert,
        PLAIN,
        _OUTSIDE,
        FUSED,
        sparse_layer=(
            *PLAIN[: -len(_MLP)],
            *_mlp("mlp.shared_expert", "shared"),
            _ROUTER,
            *_EXPERTS,
            _SHARED_GATE,
        ),
        sparse=sizes.sparse_layers,
        names=Names(before_experts=_EXPERTS_NORM),
    ),
    "qwen3_moe": Family(
        ("Qwen3MoeForCausalLM",),
        sizes.experts,
        _NORMED,
        _OUTSIDE,
        FUSED,
        sparse_layer=(*_NORMED[: -len(_MLP)], _ROUTER, *_EXPERTS),
        sparse=sizes.sparse_layers,
        names=Names(heads_first=False, before_experts=_EXPERTS_NORM),
    ),
}

OTHERS = replace(
    dense("", sizes.ungrouped, PLAIN), architectures=(), names=Names(before_experts=_EXPERTS_NORM)
)
"""What is taken for granted of a Hugging Face model without an entry: what its modules are called.
Its sites are found in the loaded model alone."""
