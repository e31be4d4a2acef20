"""Compares the sites that were found in a model with the map of its family."""

from __future__ import annotations

import logging

from torch import nn

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.hf.discover import Found
from hetero_plugin.hf.names import canonical_name, decoder_of
from hetero_plugin.sites import (
    Site,
    UnknownArchitectureError,
    aqn_sites,
    select,
    sites_from_config,
)

log = logging.getLogger("hetero_noise")


def check_map(model: nn.Module, spec: NoiseConfig, found: list[Found]) -> None:
    """Compares what was found with the family's map, where it has one.

    A layer of a class that nobody knows here (quantised, or fused by another library) is not
    found, and a spec by kinds would leave it clean without a word.

    Raises:
        ConfigError: with ``unmapped: error``, a site of the map that the spec selects, whose place
            in the model is taken by something that is not that operator.
    """
    top, decoder = decoder_of(model)
    try:
        # The map is the decoder's, whatever is on top of it.
        config = {**decoder.config.to_dict(), "architectures": None}  # type: ignore[union-attr,operator]
        known = sites_from_config(config)
    except (AttributeError, UnknownArchitectureError, ConfigError):
        return
    names = {one.site.name for one in found}
    modules = {canonical_name(path, top): module for path, module in model.named_modules()}
    places = set(modules)

    def is_lost(site: Site) -> bool:
        # A layer that was pruned away, or the head of a model without one, is no layer left clean.
        return site.name not in names and (
            site.name in places or ("." in site.name and site.name.rpartition(".")[0] in places)
        )

    lost = [site for site in known if is_lost(site)]
    if not lost:
        return
    sites = [*(one.site for one in found), *lost]
    wanted = {chosen.site.name for chosen in select(spec, sites)}
    wanted |= {site.name for site in aqn_sites(spec, sites)}
    clean = [
        f"{site.name} ({type(modules[site.name]).__name__})" if site.name in modules else site.name
        for site in lost
        if site.name in wanted
    ]
    if not clean:
        return
    words = (
        f"{len(clean)} selected sites of this {type(model).__name__} are not layers that can be "
        f"made noisy, so they would stay clean: {', '.join(clean[:8])}"
    )
    if spec.unmapped == "error":
        raise ConfigError(
            f"{words}. Wrap the model before another library replaces its layers, exclude these "
            "sites, or say unmapped: warn"
        )
    log.warning("hetero_noise: %s", words)
