"""Finds the sites of a loaded Hugging Face model by what its modules are.

The family's entry says what some of them are called; a model without one can have the usual names.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.hf.names import called_at, canonical_name, decoder_of, outside_peft
from hetero_plugin.hf.operators import Operators
from hetero_plugin.sites import (
    Names,
    Site,
    UnknownArchitectureError,
    aqn_sites,
    family_or_others,
    select,
    sites_from_config,
)

log = logging.getLogger("hetero_noise")
Adapters = Literal["base", "adapter", "both"]
"""Which GEMMs of a model with PEFT adapters are sites."""


@dataclass(frozen=True)
class Found:
    """A site and the module that carries it.

    For attention the module is the output projection, whose input is softmax·V; for the operators
    of experts it is the module that holds the experts' parameters.
    """

    site: Site
    module: nn.Module
    path: str = ""
    """The module's, in the model."""
    optional: bool = False
    """A pass may leave it out: an adapter that is switched off."""
    copies: tuple[nn.Module, ...] = ()
    """What runs in its place with some adapter or none: the others of PEFT's modules_to_save."""
    places: tuple[tuple[nn.Module, str], ...] = ()
    """Of a linear layer: the modules that call it, or PEFT's layer around it, by which name."""


def adapter_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module inside PEFT's adapters, by its path, whatever the method (LoRA, IA3, …)."""
    found: dict[str, nn.Module] = {}
    for path, layer in model.named_modules():
        for name in getattr(layer, "adapter_layer_names", ()) if hasattr(layer, "r") else ():
            inside = getattr(layer, name, None)
            if isinstance(inside, nn.Module):
                found |= {
                    f"{path}.{name}.{below}".rstrip("."): module
                    for below, module in inside.named_modules()
                }
    return found


def _runs(paths: dict[str, nn.Module], decoder: str) -> dict[str, list[str]]:
    """Paths by canonical name, without those of wrappers around another path of that name."""
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_name.setdefault(canonical_name(path, decoder), []).append(path)
    return {
        name: [p for p in same if not any(other.startswith(f"{p}.") for other in same)]
        for name, same in by_name.items()
    }


def names_of(decoder: nn.Module) -> Names:
    """What the modules of a decoder's family are called."""
    return family_or_others(getattr(getattr(decoder, "config", None), "model_type", None)).names


def discover(model: nn.Module, adapters: Adapters = "base") -> list[Found]:
    """Every site of the model, in the order of its modules.

    Args:
        model: of transformers, or what PEFT, torch or FSDP made of it.
        adapters: ``base``: the operators of the model itself; ``adapter``: the GEMMs of PEFT's
            adapters alone; ``both``.

    Raises:
        ConfigError: an activation whose width can't be told, two layers of one name, or adapters
            asked for that are not there.
    """
    inside = adapter_modules(model)
    if adapters != "base" and not any(isinstance(m, nn.Linear) for m in inside.values()):
        raise ConfigError(
            f"adapters={adapters!r}, and {type(model).__name__} has no adapter with linear layers; "
            "wrap the model after get_peft_model, or say adapters='base'"
        )
    top, decoder = decoder_of(model)
    paths: dict[str, nn.Module] = dict(model.named_modules())
    runs = _runs(paths, top)
    modules = {name: paths[same[-1]] for name, same in runs.items()}
    operators = Operators(names_of(decoder), modules, top)
    found: list[Found] = []
    for path, module in paths.items():
        adapter = path in inside
        if not path or (adapter != (adapters == "adapter") and adapters != "both"):
            continue
        name = canonical_name(path, top)
        if modules.get(name) is not module:
            continue  # a wrapper around the module that has the name, or a copy of it
        for site, carrier in operators.carried(name, path, module, adapter):
            found.append(Found(site, carrier, path, adapter))
    groups = {id(paths[same[-1]]): same for same in runs.values()}
    return [_with_copies(one, groups[id(one.module)], paths) for one in found]


def _with_copies(one: Found, same: list[str], paths: dict[str, nn.Module]) -> Found:
    """A site with all the modules that carry it, of which PEFT runs one at a time.

    Raises:
        ConfigError: they are no copies of one layer.
    """
    if len({outside_peft(path) for path in same}) > 1:
        raise ConfigError(
            f"{', '.join(same[:4])}: several layers have the name {one.site.name!r}, which is the "
            "address of the error; wrap each of the models that this one holds by itself"
        )
    copies = tuple(paths[path] for path in same[:-1])
    if not isinstance(one.module, nn.Linear):
        return replace(one, copies=copies)
    called = dict.fromkeys(called_at(path).rpartition(".") for path in same)
    places = tuple((paths[parent], leaf) for parent, _, leaf in called)
    return replace(one, copies=copies, places=places)


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
