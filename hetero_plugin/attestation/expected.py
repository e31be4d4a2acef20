"""What the probes of every engine share: the fixed prompts, and the sites to expect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hetero_plugin.attestation import ProbedSite
from hetero_plugin.config import NoiseConfig
from hetero_plugin.config.error_models import REGISTRY
from hetero_plugin.sites import Site, select, sites_from_config
from hetero_plugin.state import Phase

PROMPTS = 4
LENGTH = 24


def probe_prompts(vocab_size: int, length: int = LENGTH, n: int = PROMPTS) -> list[list[int]]:
    """``n`` prompts of ``length`` token ids each, the same at every call.

    A multiplicative walk through the vocabulary: no two prompts are alike, and within a prompt
    ids differ, so that rows are told apart by token as well as by position.
    """
    stride = 7919  # prime, so that any vocabulary is walked in full
    return [
        [int((stride * (i * length + j + 1) + 31 * i) % vocab_size) for j in range(length)]
        for i in range(n)
    ]


def expected_sites(
    config: NoiseConfig,
    hf_config: Mapping[str, object],
    phase: Phase,
    directions: Sequence[str] = ("forward", "both"),
    sites: Sequence[Site] | None = None,
) -> list[ProbedSite]:
    """Sites whose noise a probe must see: selected, in this phase, in one of the directions.

    Worked out from the model's configuration, without asking the engine.

    Args:
        sites: of the model, where they are not those of a causal language model.

    Raises:
        UnknownArchitectureError: the model's family has no map of sites.
        ConfigError: a target that matches no site.
    """
    found = []
    for chosen in select(config, sites_from_config(hf_config) if sites is None else sites):
        rules = [
            rule
            for _, rule in chosen.rules
            if rule.phase in ("both", phase) and rule.direction in directions
        ]
        if rules:
            scale = max(rule.scale for rule in rules)
            measured = all(REGISTRY[rule.error].measured for rule in rules)
            found.append(ProbedSite(chosen.site.name, chosen.site.kind, scale, measured))
    return found


def is_deterministic(config: NoiseConfig) -> bool:
    """Whether all errors of a specification are functions of the values alone: number formats."""
    formats = [REGISTRY[rule.error].number_format for rule in config.rules]
    return bool(formats) and all(formats) and config.aqn is None


def comparable_sites(
    engine_sites: Iterable[str],
    expected: Sequence[ProbedSite],
    config: NoiseConfig,
    hf_config: Mapping[str, object],
    sites: Sequence[Site] | None = None,
) -> list[str]:
    """The engine's sites without those the spec selects for another phase or direction.

    What is left should be the expected sites: one fewer is a lost site, one more is noise where
    nobody asked for it.
    """
    there = sites_from_config(hf_config) if sites is None else sites
    selected = {chosen.site.name for chosen in select(config, there)}
    elsewhere = selected - {site.name for site in expected}
    return [name for name in engine_sites if name not in elsewhere]
