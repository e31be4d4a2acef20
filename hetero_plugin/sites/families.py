"""Where the operators of each model family are: the maps behind `sites_from_config`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from hetero_plugin.config import ConfigError

__all__ = ["FAMILIES", "Entry", "Family"]

Config = Mapping[str, object]
Dims = dict[str, int]


@dataclass(frozen=True)
class Entry:
    """One operator: its path below the layer (or the model), its kind, and its sizes as names of
    the family's ``dims``."""

    path: str
    kind: str
    out: str
    into: str | None = None
    heads: str | None = None
    """A norm of each head: how many heads share its weight."""


@dataclass(frozen=True)
class Family:
    """The sites of a model family. A further family is one more entry in FAMILIES."""

    architectures: tuple[str, ...]
    dims: Callable[[Config], Dims]
    prefix: str
    per_layer: tuple[Entry, ...]
    """The sites of a layer, in the order of the forward pass."""
    outside: tuple[Entry, ...]
    fused: Mapping[str, tuple[str, ...]]
    """Fused module of a serving engine -> the leaves that it holds, in column order."""
    sparse_layer: tuple[Entry, ...] = ()
    """The sites of a layer that has experts, for families that have such layers."""
    sparse: Callable[[Config], Iterable[int]] = field(default=lambda config: ())
    """The numbers of the layers that have experts."""


def _integer(config: Config, key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        state = f"{key}: got {value!r}" if key in config else f"{key} is missing"
        raise ConfigError(
            f"model config: {state}; it should be an integer ≥ 1, as in the config.json of a "
            "Hugging Face checkpoint."
        )
    return value


def _decoder_dims(config: Config) -> Dims:
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


def _headed_dims(config: Config) -> Dims:
    """For families whose default head size is not hidden_size / heads: it has to be there."""
    _integer(config, "head_dim")
    return _decoder_dims(config)


def _ungrouped_dims(config: Config) -> Dims:
    """Llama: without num_key_value_heads there is one key-value head for each head."""
    if config.get("num_key_value_heads") is None:
        config = {**config, "num_key_value_heads": config.get("num_attention_heads")}
    return _decoder_dims(config)


def _moe_dims(config: Config) -> Dims:
    # transformers ≥ 5.6 writes Qwen3-MoE's number of experts under another name.
    experts = "num_experts" if "num_experts" in config else "num_local_experts"
    expert = _integer(config, "moe_intermediate_size")
    return {
        **_decoder_dims(config),
        "experts": _integer(config, experts),
        "expert": expert,
        "expert_gate_up": 2 * expert,
    }


def _shared_dims(config: Config) -> Dims:
    """For families with an expert that sees every token."""
    shared = _integer(config, "shared_expert_intermediate_size")
    return {**_moe_dims(config), "shared": shared, "one": 1}


def _moe_layers(config: Config) -> list[int]:
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


_NORM_IN = Entry("input_layernorm", "norm", "hidden")
_NORM_MLP = Entry("post_attention_layernorm", "norm", "hidden")
_QKV = (
    Entry("self_attn.q_proj", "linear", "queries", "hidden"),
    Entry("self_attn.k_proj", "linear", "keys", "hidden"),
    Entry("self_attn.v_proj", "linear", "keys", "hidden"),
)
_QK_NORMS = (
    Entry("self_attn.q_norm", "norm", "queries", heads="heads"),
    Entry("self_attn.k_norm", "norm", "keys", heads="groups"),
)
_ATTENTION = (
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
_FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_PLAIN = (_NORM_IN, *_QKV, *_ATTENTION, _NORM_MLP, *_MLP)
_NORMED = (_NORM_IN, *_QKV, *_QK_NORMS, *_ATTENTION, _NORM_MLP, *_MLP)


def _dense(
    architecture: str, dims: Callable[[Config], Dims], per_layer: tuple[Entry, ...]
) -> Family:
    return Family((architecture,), dims, "model.layers", per_layer, _OUTSIDE, _FUSED)


FAMILIES: dict[str, Family] = {
    "qwen2": _dense("Qwen2ForCausalLM", _decoder_dims, _PLAIN),
    "qwen3": _dense("Qwen3ForCausalLM", _headed_dims, _NORMED),
    "llama": _dense("LlamaForCausalLM", _ungrouped_dims, _PLAIN),
    "mistral": _dense("MistralForCausalLM", _decoder_dims, _PLAIN),
    "gemma3_text": _dense(
        "Gemma3ForCausalLM",
        _headed_dims,
        (
            _NORM_IN,
            *_QKV,
            *_QK_NORMS,
            *_ATTENTION,
            _NORM_MLP,
            Entry("pre_feedforward_layernorm", "norm", "hidden"),
            *_MLP,
            Entry("post_feedforward_layernorm", "norm", "hidden"),
        ),
    ),
    "qwen2_moe": Family(
        ("Qwen2MoeForCausalLM",),
        _shared_dims,
        "model.layers",
        _PLAIN,
        _OUTSIDE,
        _FUSED,
        sparse_layer=(
            *_PLAIN[: -len(_MLP)],
            *_mlp("mlp.shared_expert", "shared"),
            _ROUTER,
            *_EXPERTS,
            _SHARED_GATE,
        ),
        sparse=_moe_layers,
    ),
    "qwen3_moe": Family(
        ("Qwen3MoeForCausalLM",),
        _moe_dims,
        "model.layers",
        _NORMED,
        _OUTSIDE,
        _FUSED,
        sparse_layer=(*_NORMED[: -len(_MLP)], _ROUTER, *_EXPERTS),
        sparse=_moe_layers,
    ),
}
