"""Which operators there are in a model, by canonical name, and which of them a spec selects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hetero_plugin.config import ConfigError, NoiseConfig, NoiseRule
from hetero_plugin.config_errors import did_you_mean

__all__ = [
    "FAMILIES",
    "KINDS",
    "Family",
    "Selected",
    "Site",
    "UnknownArchitectureError",
    "aqn_sites",
    "counts",
    "family_of",
    "fused_parts",
    "match",
    "select",
    "sites_from_config",
]

KINDS = ("linear", "lm_head", "norm", "activation", "attention")


class UnknownArchitectureError(ConfigError):
    """A model family that has no map of its sites."""


@dataclass(frozen=True)
class Site:
    """One operator in one layer where error enters."""

    name: str
    """Module path in Hugging Face's model, whichever engine runs it."""
    kind: str
    layer: int | None
    """Number of the decoder layer; None for the final norm and lm_head."""
    features: int
    """Output columns of the whole operator, before any tensor-parallel sharding."""
    in_features: int | None
    """Input columns; None where the operator has no matrix."""


@dataclass(frozen=True)
class Family:
    """The sites of a model family. A further family is one more entry in FAMILIES.

    ``per_layer`` and ``outside`` hold (path below the layer or model, kind, features,
    in_features), the sizes as names of ``dims``.
    """

    architectures: tuple[str, ...]
    dims: Callable[[Mapping[str, object]], dict[str, int]]
    prefix: str
    per_layer: tuple[tuple[str, str, str, str | None], ...]
    outside: tuple[tuple[str, str, str, str | None], ...]
    fused: Mapping[str, tuple[str, ...]]
    """Fused module of a serving engine -> the leaves that it holds, in column order."""


def _integer(config: Mapping[str, object], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        state = f"{key}: got {value!r}" if key in config else f"{key} is missing"
        raise ConfigError(
            f"model config: {state}; it should be an integer ≥ 1, as in the config.json of a "
            "Hugging Face checkpoint."
        )
    return value


def _decoder_dims(config: Mapping[str, object]) -> dict[str, int]:
    """Sizes of a grouped-query decoder with a gated MLP."""
    hidden, heads = _integer(config, "hidden_size"), _integer(config, "num_attention_heads")
    head = hidden // heads if config.get("head_dim") is None else _integer(config, "head_dim")
    return {
        "layers": _integer(config, "num_hidden_layers"),
        "hidden": hidden,
        "intermediate": _integer(config, "intermediate_size"),
        "queries": heads * head,
        "keys": _integer(config, "num_key_value_heads") * head,
        "vocab": _integer(config, "vocab_size"),
    }


FAMILIES: dict[str, Family] = {
    "qwen2": Family(
        architectures=("Qwen2ForCausalLM",),
        dims=_decoder_dims,
        prefix="model.layers",
        per_layer=(
            ("input_layernorm", "norm", "hidden", None),
            ("self_attn.q_proj", "linear", "queries", "hidden"),
            ("self_attn.k_proj", "linear", "keys", "hidden"),
            ("self_attn.v_proj", "linear", "keys", "hidden"),
            ("self_attn", "attention", "queries", None),
            ("self_attn.o_proj", "linear", "hidden", "queries"),
            ("post_attention_layernorm", "norm", "hidden", None),
            ("mlp.gate_proj", "linear", "intermediate", "hidden"),
            ("mlp.up_proj", "linear", "intermediate", "hidden"),
            ("mlp.act_fn", "activation", "intermediate", None),
            ("mlp.down_proj", "linear", "hidden", "intermediate"),
        ),
        # With tied embeddings lm_head still multiplies, so it is a site all the same.
        outside=(
            ("model.norm", "norm", "hidden", None),
            ("lm_head", "lm_head", "vocab", "hidden"),
        ),
        fused={
            "qkv_proj": ("q_proj", "k_proj", "v_proj"),
            "gate_up_proj": ("gate_proj", "up_proj"),
        },
    ),
}


def family_of(model_type: object) -> Family:
    """The map of a model family.

    Raises:
        UnknownArchitectureError: there is none; the text says what to add.
    """
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise UnknownArchitectureError(
            f"model_type {model_type!r} has no map of its sites; there are maps for: "
            f"{', '.join(FAMILIES)}. To support it add an entry to FAMILIES in "
            "hetero_plugin/sites.py (its sites by path, kind and size, and its fused modules)."
        )
    return family


def sites_from_config(hf_config: Mapping[str, object]) -> tuple[Site, ...]:
    """All sites of a model, in the order of the forward pass.

    Args:
        hf_config: the model's config.json as a mapping. No weights are needed.

    Raises:
        UnknownArchitectureError: the family, or this model of the family, has no map.
        ConfigError: a size is missing or not a positive integer.
    """
    family = family_of(hf_config.get("model_type"))
    architectures = hf_config.get("architectures") or ()
    if isinstance(architectures, Sequence) and architectures:
        known = set(family.architectures) & {str(a) for a in architectures}
        if not known:
            raise UnknownArchitectureError(
                f"architectures {list(architectures)} of model_type "
                f"{hf_config.get('model_type')!r} has no map of its sites; there is one for: "
                f"{', '.join(family.architectures)}. To support it add an entry to FAMILIES in "
                "hetero_plugin/sites.py."
            )
    dims = family.dims(hf_config)

    def site(name: str, kind: str, layer: int | None, out: str, into: str | None) -> Site:
        return Site(name, kind, layer, dims[out], None if into is None else dims[into])

    inside = [
        site(f"{family.prefix}.{layer}.{path}", kind, layer, out, into)
        for layer in range(dims["layers"])
        for path, kind, out, into in family.per_layer
    ]
    outside = [site(path, kind, None, out, into) for path, kind, out, into in family.outside]
    return (*inside, *outside)


def fused_parts(model_type: str, leaf: str) -> tuple[str, ...]:
    """The leaves inside a fused module, in column order; an unfused leaf is its own only part.

    Example::

        fused_parts("qwen2", "qkv_proj")  # ("q_proj", "k_proj", "v_proj")
    """
    return family_of(model_type).fused.get(leaf, (leaf,))


def _matcher(word: str) -> Callable[[Site], bool]:
    if word.startswith("re:"):
        pattern = re.compile(word[3:])
        return lambda site: pattern.fullmatch(site.name) is not None
    if word == "linear":
        return lambda site: site.kind in ("linear", "lm_head")
    if word in KINDS:
        return lambda site: site.kind == word
    if any(c in word for c in "*?["):
        return lambda site: fnmatchcase(site.name, word)
    return lambda site: site.name == word


def _hint(word: str, sites: Sequence[Site]) -> str:
    leaves = {site.name.rsplit(".", 1)[-1] for site in sites}
    if word in leaves:
        return f" Did you mean '*.{word}'?"
    if word.startswith("re:"):
        return " A regular expression has to match the whole name: begin it with '.*'."
    return did_you_mean(word, [*KINDS, *(f"*.{leaf}" for leaf in leaves), *(s.name for s in sites)])


def match(words: Iterable[str], sites: Sequence[Site], where: str) -> frozenset[str]:
    """Names of the sites that at least one of ``words`` selects.

    Args:
        words: kinds, site names, globs or ``re:`` patterns.
        sites: the model's sites.
        where: place of the words, for the error, e.g. ``rules[0].targets``.

    Raises:
        ConfigError: a word that selects no site.
    """
    found: set[str] = set()
    for word in words:
        matches = _matcher(word)
        hits = {site.name for site in sites if matches(site)}
        if not hits:
            kinds = [kind for kind in KINDS if any(site.kind == kind for site in sites)]
            example = sites[0].name if sites else "none"
            raise ConfigError(
                f"{where}: {word!r} matches none of the model's {len(sites)} sites."
                f"{_hint(word, sites)} It should be a kind ({', '.join(kinds)}), a site name such "
                f"as {example!r}, a glob or a re: pattern."
            )
        found |= hits
    return frozenset(found)


@dataclass(frozen=True)
class Selected:
    """A site and the rules that apply to it, as (index in the spec, rule), in the spec's order."""

    site: Site
    rules: tuple[tuple[int, NoiseRule], ...]


def _hits(index: int, rule: NoiseRule, sites: Sequence[Site]) -> frozenset[str]:
    """Names of the sites that one rule selects."""
    place = f"rules[{index}]"
    named = match(rule.targets, sites, f"{place}.targets")
    named -= match(rule.exclude, sites, f"{place}.exclude")
    layers = rule.layer_set()
    if layers is not None:
        there = {site.layer for site in sites if site.layer is not None}
        missing = sorted(layers - there)
        if missing:
            raise ConfigError(
                f"{place}.layers: the model has no layer {', '.join(map(str, missing))}; its "
                f"layers are 0 to {max(there, default=-1)}."
            )
        named &= {site.name for site in sites if site.layer in layers}
    if not named:
        raise ConfigError(
            f"{place}: targets {list(rule.targets)} without {list(rule.exclude)} in layers "
            f"{'all' if rule.layers is None else list(rule.layers)} leave no site; a rule has to "
            "select at least one."
        )
    return named


def select(config: NoiseConfig, sites: Sequence[Site]) -> tuple[Selected, ...]:
    """The sites that at least one rule selects, in the order of ``sites``.

    Raises:
        ConfigError: a target, exclude or layer that is not in the model, or a rule that selects
            nothing.
    """
    hits = [_hits(index, rule, sites) for index, rule in enumerate(config.rules)]
    chosen = []
    for site in sites:
        rules = tuple((i, r) for i, r in enumerate(config.rules) if site.name in hits[i])
        if rules:
            chosen.append(Selected(site, rules))
    return tuple(chosen)


def aqn_sites(config: NoiseConfig, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The norms that AQN adds noise to; empty when the spec has no AQN.

    Raises:
        ConfigError: a target that is not in the model, or is not a norm.
    """
    if config.aqn is None:
        return ()
    named = match(config.aqn.targets, sites, "aqn.targets")
    chosen = tuple(site for site in sites if site.name in named)
    for site in chosen:
        if site.kind != "norm":
            raise ConfigError(
                f"aqn.targets: {site.name!r} is of the kind {site.kind}; AQN adds noise to the "
                "weights of norms only."
            )
    return chosen


def counts(selected: Iterable[Selected | Site]) -> dict[str, int]:
    """Number of sites by kind, kinds without a site left out."""
    found = Counter(s.site.kind if isinstance(s, Selected) else s.kind for s in selected)
    return {kind: found[kind] for kind in KINDS if found[kind]}
