"""The operators of a Hugging Face model, and what they read in a pass over a text.

T rows (tokens of all sequences), K inputs and N outputs of a row, B batch, H heads, D features of
a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hetero_plugin.config import ConfigError
from hetero_plugin.hf.discover import Found, discover
from hetero_plugin.hf.norms import adds_one, epsilon, offset_formula
from hetero_plugin.profile.operators import references
from hetero_plugin.profile.operators.base import Inputs, Operator, chosen_columns
from hetero_plugin.sites import Site

__all__ = ["KINDS", "HFOperators", "operators_of"]

KINDS = ("linear", "lm_head", "norm", "activation", "attention")
"""Kinds that can be recorded."""


@dataclass(frozen=True)
class HFOperators:
    """What of a model can be recorded.

    Args:
        operators: name -> operator, in the order of the model's modules.
        modules: name -> the module whose input is the operator's; of attention its block.
        sites: name -> its site.
        left_out: name of each site that can't be recorded -> why.
    """

    operators: Mapping[str, Operator]
    modules: Mapping[str, nn.Module]
    sites: Mapping[str, Site]
    left_out: Mapping[str, str]


def operators_of(model: nn.Module, sequences: Sequence[int], columns: int) -> HFOperators:
    """Every operator of a model.

    Args:
        model: a clean causal language model of transformers.
        sequences: rows of each sequence of the recording; their sum is T.
        columns: of a site that are kept at most.
    """
    operators: dict[str, Operator] = {}
    modules: dict[str, nn.Module] = {}
    sites: dict[str, Site] = {}
    left_out: dict[str, str] = {}
    for one in discover(model):
        site = one.site
        if site.kind == "attention_scores":
            continue  # inside the operator of softmax·V
        kept = chosen_columns(site.name, site.features, columns)
        try:
            modules[site.name], operators[site.name] = _made(model, one, kept, sequences)
            sites[site.name] = site
        except ConfigError as error:
            left_out[site.name] = str(error)
    return HFOperators(operators, modules, sites, left_out)


def _made(
    model: nn.Module, one: Found, kept: Tensor, sequences: Sequence[int]
) -> tuple[nn.Module, Operator]:
    """A site's module and operator.

    Raises:
        ConfigError: the site can't be recorded; the message says why.
    """
    site, module = one.site, one.module
    if site.kind in ("linear", "lm_head") and isinstance(module, nn.Linear):
        return module, _linear(site, module, kept)
    if site.kind == "norm":
        return module, _norm(site, module, kept)
    if site.kind == "activation" and not hasattr(module, "num_experts"):
        return module, _activation(site, module, kept)
    if site.kind == "attention":
        block = model.get_submodule(one.path.rpartition(".")[0])
        return block, _attention(site, block, kept, sequences)
    raise ConfigError(f"{site.kind} in {type(module).__name__} is not recorded")


def _linear(site: Site, module: nn.Linear, kept: Tensor) -> Operator:
    weight, bias = module.weight, module.bias

    def run(inputs: Inputs) -> Tensor:
        y: Tensor = module(inputs["x"][None])[0]
        return y

    return Operator(
        site.name,
        site.kind,
        site.layer,
        module.in_features,
        module.out_features,
        kept,
        run,
        lambda inputs: references.linear(inputs, weight, bias, kept),
        weight,
        bias,
    )


def _norm(site: Site, module: Any, kept: Tensor) -> Operator:
    formula = offset_formula(module, site.name)
    eps, weight, heads = epsilon(module), module.weight, site.heads

    def run(inputs: Inputs) -> Tensor:
        x = inputs["x"]
        if "residual" in inputs:  # as the decoder layer does it, rounded to the dtype
            x = inputs["residual"] + x
        y: Tensor = module(x[None] if heads == 1 else x.reshape(1, len(x), heads, -1))
        return y.reshape(len(x), -1)

    return Operator(
        site.name,
        "norm",
        site.layer,
        site.features,
        site.features,
        kept,
        run,
        lambda inputs: references.norm(inputs, weight, eps, heads, adds_one(formula), kept),
        weight,
        extra={"eps": float(eps), "heads": float(heads)},
    )


def _activation(site: Site, module: nn.Module, kept: Tensor) -> Operator:
    def run(inputs: Inputs) -> Tensor:
        y: Tensor = module(inputs["x"][None])[0]
        return y * inputs["up"] if "up" in inputs else y

    return Operator(
        site.name,
        "activation",
        site.layer,
        site.features,
        site.features,
        kept,
        run,
        lambda inputs: references.activation(inputs, module, kept),
    )


def _attention(site: Site, block: Any, kept: Tensor, sequences: Sequence[int]) -> Operator:
    """Softmax·V of every sequence, by the implementation that transformers calls sdpa.

    Raises:
        ConfigError: the block computes something else.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    window = getattr(block, "sliding_window", None)
    if getattr(block.config, "_attn_implementation", None) != "sdpa":
        raise ConfigError("its attention does not run as sdpa")
    if getattr(block, "attn_logit_softcapping", None) or hasattr(block, "sinks"):
        raise ConfigError("its scores are capped, or have sinks")
    if window and window < max(sequences):
        raise ConfigError(f"its window of {window} tokens is shorter than a sequence")
    head, scaling = int(block.head_dim), float(block.scaling)

    def run(inputs: Inputs) -> Tensor:
        found = []
        for one in zip(*(inputs[name].split(list(sequences)) for name in "qkv"), strict=True):
            # As the model hands them on: tokens lie together, heads are a view.
            q, k, v = (t.reshape(1, len(t), -1, head).transpose(1, 2) for t in one)
            y, _ = sdpa_attention_forward(block, q, k, v, None, scaling=scaling)
            found.append(y.reshape(y.shape[1], -1))
        return torch.cat(found)

    return Operator(
        site.name,
        "attention",
        site.layer,
        site.features,
        site.features,
        kept,
        run,
        lambda inputs: references.attention(inputs, sequences, head, scaling, kept),
        extra={"head": float(head), "scaling": scaling},
    )
