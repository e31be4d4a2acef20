"""Which operators there are in a model, by canonical name, and which of them a spec selects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hetero_plugin.config import AQNConfig, ConfigError, NoiseConfig, NoiseRule
from hetero_plugin.config.multipliers import factors_of, written
from hetero_plugin.config.problems import did_you_mean
from hetero_plugin.sites.families import FAMILIES, FUSED, OTHERS
from hetero_plugin.sites.family import Entry, Family

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
    "family_or_others",
    "fused_parts",
    "match",
    "select",
    "sites_from_config",
]

KINDS = ("linear", "lm_head", "norm", "activation", "attention", "attention_scores", "router")


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
    heads: int = 1
    """Of a norm of each head (q_norm, k_norm): how many heads of a token share its weight."""
    heads_first: bool | None = None
    """Of a norm of each head: whether Hugging Face gives it [batch, heads, tokens, features] and
    not [batch, tokens, heads, features]; None: not known."""
    before_experts: bool = False
    """Of a norm: what a router and its experts read, which AQN means by ``norm``."""

    @property
    def weight_features(self) -> int:
        """Elements of a norm's weight, and so of its AQN offset."""
        return self.features // self.heads


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
            "hetero_plugin/sites/families.py (docs/add_family.md)."
        )
    return family


def family_or_others(model_type: object) -> Family:
    """The map of a model family, or what is taken for granted of those without one."""
    return FAMILIES.get(model_type, OTHERS) if isinstance(model_type, str) else OTHERS


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
                "hetero_plugin/sites/families.py."
            )
    sizes, names = family.sizes(hf_config), family.names
    sparse = set(family.sparse(hf_config))

    def site(entry: Entry, layer: int | None) -> Site:
        return Site(
            entry.path if layer is None else f"{family.prefix}.{layer}.{entry.path}",
            entry.kind,
            layer,
            sizes[entry.out],
            None if entry.into is None else sizes[entry.into],
            1 if entry.heads is None else sizes[entry.heads],
            None if entry.heads is None else names.heads_first,
            entry.path == names.before_experts,
        )

    inside = [
        site(entry, layer)
        for layer in range(sizes["layers"])
        for entry in (family.sparse_layer if layer in sparse else family.per_layer)
    ]
    return (*inside, *(site(entry, None) for entry in family.outside))


def fused_parts(model_type: str, leaf: str) -> tuple[str, ...]:
    """The leaves inside a fused module, in column order; an unfused leaf is its own only part.

    Example::

        fused_parts("qwen2", "qkv_proj")  # ("q_proj", "k_proj", "v_proj")
    """
    return family_of(model_type).fused.get(leaf, (leaf,))


def fused_with(name: str) -> tuple[str, ...]:
    """The sites that serving engines fuse with a linear site into one layer, itself among them.

    Example::

        fused_with("model.layers.0.mlp.up_proj")  # (…gate_proj, …up_proj)
    """
    parent, dot, leaf = name.rpartition(".")
    group = next((leaves for leaves in FUSED.values() if leaf in leaves), (leaf,))
    return tuple(f"{parent}{dot}{one}" for one in group)


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
    kinds = [kind for kind in KINDS if kind != word]  # one that this model has no site of
    return did_you_mean(word, [*kinds, *(f"*.{leaf}" for leaf in leaves), *(s.name for s in sites)])


def _is_unasked(word: str, site: Site) -> bool:
    """Whether a pattern meets an attention score that it does not spell out.

    Scores exist under eager attention alone: ``*`` or ``*.layers.0.*`` would be an error in every
    other model, and more error than it was in an eager one.
    """
    pattern = word.startswith("re:") or any(c in word for c in "*?[")
    leaf = site.name.rpartition(".")[2]
    return pattern and site.kind == "attention_scores" and leaf not in word


def match(
    words: Iterable[str],
    sites: Sequence[Site],
    where: str,
    *,
    unasked: bool = False,
    absent: bool = False,
) -> frozenset[str]:
    """Names of the sites that at least one of ``words`` selects.

    Args:
        words: kinds, site names, globs or ``re:`` patterns.
        sites: the model's sites.
        where: place of the words, for the error, e.g. ``rules[0].targets``.
        unasked: patterns select attention scores too where they don't spell out ``scores`` or
            ``softmax``; for words that take sites out.
        absent: a kind that the model does not have is no error; for words that take sites out,
            such as ``lm_head`` of a model without one.

    Raises:
        ConfigError: a word that selects no site.
    """
    found: set[str] = set()
    for word in words:
        matches = _matcher(word)
        hits = {s.name for s in sites if matches(s) and (unasked or not _is_unasked(word, s))}
        if not hits and not (absent and word in KINDS):
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
    named -= match(rule.exclude, sites, f"{place}.exclude", unasked=True, absent=True)
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

    In a model with experts the kind ``norm`` stands for the norms after attention, before the
    router and experts, alone. Names and patterns select any norm.

    Raises:
        ConfigError: a target or layer that is not in the model, a target that is not a norm,
            factors for another number of layers, or no norm left.
    """
    if config.aqn is None:
        return ()
    words, before = config.aqn.targets, frozenset[str]()
    if "norm" in words and any(site.kind == "router" for site in sites):
        words = tuple(word for word in words if word != "norm")
        before = frozenset(site.name for site in sites if site.before_experts)
        if not before:
            raise ConfigError(
                "aqn.targets: 'norm' means the norms before the experts, and which these are in "
                "this model is not known: name them, or give its family's entry in "
                "hetero_plugin/sites/families.py the name before_experts"
            )
    named = match(words, sites, "aqn.targets") | before
    chosen = tuple(site for site in sites if site.name in named)
    for site in chosen:
        if site.kind != "norm":
            raise ConfigError(
                f"aqn.targets: {site.name!r} is of the kind {site.kind}; AQN adds noise to the "
                "weights of norms only."
            )
    return _in_layers(config.aqn, chosen, sites)


def _in_layers(aqn: AQNConfig, chosen: tuple[Site, ...], sites: Sequence[Site]) -> tuple[Site, ...]:
    """The norms that are in AQN's layers, its layers and factors being those of the model."""
    there = {site.layer for site in sites if site.layer is not None}
    last = max(there, default=-1)
    layers = aqn.layer_set()
    for key, named in (("layers", layers or ()), ("multipliers", factors_of(aqn.multipliers))):
        missing = sorted(set(named) - there)
        if missing:
            raise ConfigError(
                f"aqn.{key}: the model has no layer {', '.join(map(str, missing))}; its layers are "
                f"0 to {last}."
            )
    factors = written(aqn.multipliers)
    if isinstance(factors, list) and len(factors) != last + 1:
        raise ConfigError(
            f"aqn.multipliers: {len(factors)} factors for a model of {last + 1} layers; a list "
            "should have one for every layer. Write some of them as a mapping."
        )
    if layers is None:
        return chosen
    kept = tuple(site for site in chosen if site.layer in layers)
    if not kept:
        raise ConfigError(
            f"aqn: targets {list(aqn.targets)} in layers {list(aqn.layers or ())} leave no norm; "
            "AQN has to have at least one."
        )
    return kept


def counts(selected: Iterable[Selected | Site]) -> dict[str, int]:
    """Number of sites by kind, kinds without a site left out."""
    found = Counter(s.site.kind if isinstance(s, Selected) else s.kind for s in selected)
    return {kind: found[kind] for kind in KINDS if found[kind]}
