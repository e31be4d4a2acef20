"""What the modules of a decoder are: which sites each of them carries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from hetero_plugin.config import ConfigError
from hetero_plugin.hf.names import is_inside
from hetero_plugin.hf.scores import scores_sites
from hetero_plugin.sites import Names, Site

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
Carried = tuple[Site, nn.Module]
"""A site and the module whose class has to change for it."""


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


@dataclass
class Operators:
    """Tells which sites a module carries, by its class and, where that does not tell, its name."""

    names: Names
    """Of the model's family."""
    modules: Mapping[str, nn.Module]
    """The model's, by canonical name."""
    decoder: str
    """The decoder's path in the model."""
    inside_experts: set[str] = field(default_factory=set)
    """Activations that are an operator of their experts."""

    def carried(self, name: str, path: str, module: nn.Module, adapter: bool) -> list[Carried]:
        """The sites of one module, in the order of the forward pass.

        Args:
            name: canonical.
            path: in the model.
            module: the module there.
            adapter: whether it is inside of a PEFT adapter.

        Raises:
            ConfigError: it is an operator whose size or layout can't be told.
        """
        layer, leaf = _layer(name), name.rpartition(".")[2]
        if isinstance(module, nn.Linear):
            # What multiplies the decoder's output is a head, whatever it is called.
            kind = "linear" if is_inside(path, self.decoder) else "lm_head"
            if leaf in self.names.routers:
                kind = "router"
            site = Site(name, kind, layer, module.out_features, module.in_features)
            of_attention = leaf in self.names.attention_output and not adapter
            before = self._attention(name, module, layer) if of_attention else []
            return [*before, (site, module)]
        if is_norm(module):
            return self._norm(name, module, layer)
        if is_experts(module):
            self.inside_experts.add(f"{name}.act_fn")
            return [(site, module) for site in _experts_sites(name, module, layer)]
        if is_router(module):
            out, into = module.weight.shape  # type: ignore[misc]
            return [(Site(name, "router", layer, out, into), module)]
        activation = leaf in self.names.activations and name not in self.inside_experts
        if activation and is_inside(path, self.decoder):
            return [(Site(name, "activation", layer, self._width(name), None), module)]
        return []

    def _beside(self, name: str, leaf: str) -> nn.Linear | None:
        module = self.modules.get(f"{name.rpartition('.')[0]}.{leaf}")
        return module if isinstance(module, nn.Linear) else None

    def _attention(self, name: str, projection: nn.Linear, layer: int | None) -> list[Carried]:
        """Of the attention whose output a linear layer reads, whichever implementation made it."""
        parent, wide = name.rpartition(".")[0], projection.in_features
        block = self.modules[parent]
        scores = scores_sites(parent, block, layer, wide)
        inside: list[Carried] = [(site, block) for site in scores]
        return [*inside, (Site(parent, "attention", layer, wide, None), projection)]

    def _norm(self, name: str, module: nn.Module, layer: int | None) -> list[Carried]:
        weight = getattr(module, "weight", None)
        if weight is None:
            return []
        leaf = name.rpartition(".")[2]
        projection = self.names.projected.get(leaf)
        whole = self._beside(name, projection) if projection else None
        features = weight.numel() if whole is None else whole.out_features
        heads = features // weight.numel()
        first = self.names.heads_first if heads > 1 else None
        before = leaf == self.names.before_experts
        return [(Site(name, "norm", layer, features, None, heads, first, before), module)]

    def _width(self, name: str) -> int:
        """Of an activation: its columns.

        Raises:
            ConfigError: no linear layer beside it tells.
        """
        for leaf, times in self.names.gates.items():
            gate = self._beside(name, leaf)
            if gate is not None:
                return gate.out_features // times
        raise ConfigError(
            f"the activation {name!r} has none of {', '.join(self.names.gates)} beside it, so its "
            "width can't be told; exclude it, or give the family's entry in "
            "hetero_plugin/sites/families.py the name of its linear layer (docs/add_family.md)"
        )
