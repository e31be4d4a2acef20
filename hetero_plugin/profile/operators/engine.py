"""The operators of a model that vLLM has loaded, each run by itself on given inputs.

A fused layer is run whole, and its outputs are its sites'. Attention is left out: it reads a cache
and the metadata of a scheduled batch, which an operator by itself does not have.

T rows, K inputs and N outputs of a row, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm
from vllm.model_executor.layers.linear import LinearBase

from hetero_plugin.config import ConfigError
from hetero_plugin.profile.operators.base import Inputs, Operator, chosen_columns
from hetero_plugin.sites import Site, family_of, fused_parts, sites_from_config
from hetero_plugin.vllm.walker import canonical

__all__ = ["operators_of"]

_ATTENTION = "attention reads vLLM's KV cache and the metadata of a batch, so it is not recorded"


def operators_of(
    model: nn.Module, hf_config: Mapping[str, object], columns: int
) -> tuple[dict[str, Operator], dict[str, str]]:
    """Every operator of a loaded model, on one rank.

    Args:
        model: vLLM's.
        hf_config: of the checkpoint.
        columns: of a site that are kept at most.

    Returns:
        Name -> operator; and name of each site that can't be recorded -> why.

    Raises:
        ConfigError: the family has no map of its sites.
    """
    sites = {site.name: site for site in sites_from_config(hf_config)}
    found: dict[str, Operator] = {}
    left_out: dict[str, str] = {}
    for name, module in _modules(model, str(hf_config["model_type"])):
        if isinstance(module, Attention):
            left_out[name.removesuffix(".attn")] = _ATTENTION
            continue
        try:
            made = _operators(name, module, sites, str(hf_config["model_type"]), columns)
        except ConfigError as error:
            left_out[name] = str(error)
        else:
            found |= {operator.name: operator for operator in made}
    if "lm_head" in sites:
        found["lm_head"] = _head(model, sites["lm_head"], columns)
    for name, site in sites.items():
        if name not in found and name not in left_out:
            left_out[name] = f"{site.kind} is not recorded in vLLM"
    return found, left_out


def _modules(model: nn.Module, family: str) -> Iterator[tuple[str, nn.Module]]:
    decoder = family_of(family).prefix.partition(".")[0]
    # vLLM shares one activation between layers, which is a site in each of them.
    for path, module in model.named_modules(remove_duplicate=False):
        yield canonical(path, model, decoder), module


def _operators(
    name: str, module: nn.Module, sites: Mapping[str, Site], family: str, columns: int
) -> list[Operator]:
    """Those that one layer carries.

    Raises:
        ConfigError: it can't be run by itself.
    """
    if isinstance(module, LinearBase):
        parent, _, leaf = name.rpartition(".")
        names = [f"{parent}.{part}" for part in fused_parts(family, leaf) or (leaf,)]
        if any(one not in sites or sites[one].kind != "linear" for one in names):
            return []
        return _linear(module, [sites[one] for one in names], columns)
    site = sites.get(name)
    if site is None:
        return []
    if isinstance(module, RMSNorm | GemmaRMSNorm) and site.kind == "norm":
        return [_norm(module, site, columns)]
    if isinstance(module, SiluAndMul | GeluAndMul) and site.kind == "activation":
        return [_activation(module, site, columns)]
    return []


def _linear(layer: Any, sites: list[Site], columns: int) -> list[Operator]:
    width = sum(site.features for site in sites)
    if layer.output_size != width:
        raise ConfigError(f"has {layer.output_size} columns in the engine, its sites have {width}")
    found, first = [], 0
    for site in sites:
        part = slice(first, first + site.features)
        first += site.features

        def run(inputs: Inputs, part: slice = part) -> Tensor:
            y = layer(inputs["x"])
            if isinstance(y, tuple):
                y, bias = y
                y = y if bias is None else y + bias
            whole: Tensor = y
            return whole[:, part]

        found.append(_of(site, site.in_features or 0, columns, run))
    return found


def _head(model: Any, site: Site, columns: int) -> Operator:
    def run(inputs: Inputs) -> Tensor:
        y: Tensor = model.compute_logits(inputs["x"])
        return y[:, : site.features]

    return _of(site, site.in_features or 0, columns, run)


def _norm(module: Any, site: Site, columns: int) -> Operator:
    def run(inputs: Inputs) -> Tensor:
        x = inputs["x"].clone()  # the fused kernels write into what they read
        if "residual" in inputs:
            y: Tensor = module(x, inputs["residual"].clone())[0]
            return y
        y = module(x if site.heads == 1 else x.reshape(len(x), site.heads, -1))
        return y.reshape(len(x), -1)

    extra = {"eps": float(module.variance_epsilon), "heads": float(site.heads)}
    return _of(site, site.features, columns, run, module.weight.data, extra)


def _activation(module: Any, site: Site, columns: int) -> Operator:
    def run(inputs: Inputs) -> Tensor:
        x = inputs["x"]
        # Without a factor the engine's own kernel multiplies by 1, which is exact.
        y: Tensor = module(torch.cat([x, inputs.get("up", torch.ones_like(x))], dim=-1))
        return y

    return _of(site, site.features, columns, run)


def _of(
    site: Site,
    k: int,
    columns: int,
    run: Any,
    weight: Tensor | None = None,
    extra: Mapping[str, float] | None = None,
) -> Operator:
    kept = chosen_columns(site.name, site.features, columns)
    return Operator(
        site.name,
        site.kind,
        site.layer,
        k,
        site.features,
        kept,
        run,
        weight=weight,
        extra=extra or {},
    )
