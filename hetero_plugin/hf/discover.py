"""Finds the sites of a loaded Hugging Face model by what its modules are, not by its family."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.hf.names import called_at, canonical_name, decoder_of, is_inside, outside_peft
from hetero_plugin.hf.scores import scores_sites
from hetero_plugin.sites import (
    Site,
    UnknownArchitectureError,
    aqn_sites,
    select,
    sites_from_config,
)

log = logging.getLogger("hetero_noise")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_ACTIVATION_LEAVES = ("act_fn", "activation_fn")
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


def is_norm(module: nn.Module) -> bool:
    """Whether a module is an RMSNorm of any family."""
    return isinstance(module, nn.RMSNorm) or type(module).__name__.endswith("RMSNorm")


def is_router(module: nn.Module) -> bool:
    """Whether a module is what scores the experts: a matrix that is no linear layer in itself."""
    weight = module._parameters.get("weight")
    return hasattr(module, "top_k") and weight is not None and weight.dim() == 2


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds the experts of a layer as three-dimensional parameters."""
    return any(p is not None and p.dim() == 3 for p in module._parameters.values()) and hasattr(
        module, "num_experts"
    )


def _experts_sites(name: str, module: nn.Module, layer: int | None) -> list[Site]:
    """The operators inside a module of experts.

    Raises:
        ConfigError: its parameters are laid out in a way that is not known here.
    """
    up, down = module._parameters.get("gate_up_proj"), module._parameters.get("down_proj")
    usual = getattr(module, "has_gate", False) and getattr(module, "is_concatenated", False)
    odd = getattr(module, "has_bias", True) or getattr(module, "is_transposed", True)
    if up is None or down is None or not usual or odd:
        raise ConfigError(
            f"{name} ({type(module).__name__}) holds its experts in a way that hetero_noise does "
            "not know; it knows gate_up_proj [experts, 2 x width, hidden] and down_proj [experts, "
            "hidden, width], without bias, as in Qwen2-MoE and Qwen3-MoE of transformers 5"
        )
    hidden, width = down.shape[1], down.shape[2]
    return [
        Site(f"{name}.gate_up_proj", "linear", layer, 2 * width, hidden),
        Site(f"{name}.act_fn", "activation", layer, width, None),
        Site(f"{name}.down_proj", "linear", layer, hidden, width),
    ]


def _layer(name: str) -> int | None:
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def _sibling(modules: dict[str, nn.Module], name: str, leaf: str) -> nn.Linear | None:
    parent = name.rpartition(".")[0]
    module = modules.get(f"{parent}.{leaf}")
    return module if isinstance(module, nn.Linear) else None


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
    top, _ = decoder_of(model)
    paths: dict[str, nn.Module] = dict(model.named_modules())
    runs = _runs(paths, top)
    modules: dict[str, nn.Module] = {name: paths[same[-1]] for name, same in runs.items()}
    found: list[Found] = []
    inside_experts: set[str] = set()
    for path, module in paths.items():
        if not path:
            continue
        if (path in inside) != (adapters == "adapter") and adapters != "both":
            continue
        name = canonical_name(path, top)
        if modules.get(name) is not module:
            continue  # a wrapper around the module that has the name, or a copy of it
        layer, leaf = _layer(name), name.rpartition(".")[2]
        if isinstance(module, nn.Linear):
            # What multiplies the decoder's output is a head, whatever it is called.
            kind = "linear" if is_inside(path, top) else "lm_head"
            if leaf == "shared_expert_gate":
                kind = "router"
            site = Site(name, kind, layer, module.out_features, module.in_features)
            if leaf == "o_proj" and path not in inside:
                # The output of softmax·V is this projection's input, whichever attention
                # implementation made it.
                parent = name.rpartition(".")[0]
                wide, block = module.in_features, modules[parent]
                scores = scores_sites(parent, block, layer, wide)
                found += [Found(s, block, path=path) for s in scores]
                attention = Site(parent, "attention", layer, wide, None)
                found.append(Found(attention, module, path))
            found.append(Found(site, module, path, path in inside))
        elif is_norm(module):
            weight = getattr(module, "weight", None)
            if weight is None:
                continue
            projection = {"q_norm": "q_proj", "k_norm": "k_proj"}.get(leaf)
            whole = _sibling(modules, name, projection) if projection else None
            features = whole.out_features if whole is not None else weight.numel()
            heads = features // weight.numel()
            site = Site(name, "norm", layer, features, None, heads)
            found.append(Found(site, module, path, path in inside))
        elif is_experts(module):
            inside_experts.add(f"{name}.act_fn")
            sites = _experts_sites(name, module, layer)
            found += [Found(site, module, path=path) for site in sites]
        elif is_router(module):
            out, into = module.weight.shape  # type: ignore[misc]
            found.append(Found(Site(name, "router", layer, out, into), module, path=path))
        elif leaf in _ACTIVATION_LEAVES and name not in inside_experts and is_inside(path, top):
            gate = _sibling(modules, name, "gate_proj") or _sibling(modules, name, "fc1")
            if gate is None:
                raise ConfigError(
                    f"the activation {name!r} has no gate_proj or fc1 beside it, so its width "
                    "can't be told; exclude it, or add its family's rule to hf/discover.py"
                )
            site = Site(name, "activation", layer, gate.out_features, None)
            found.append(Found(site, module, path=path))
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
