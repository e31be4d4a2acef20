"""Where output projections and heads stand in a model, and what has come to stand there since.

PEFT puts its layers around a projection, after wrap as before it, and takes them off again;
`resize_token_embeddings` makes another head. Each pass looks, which is one comparison a place.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from hetero_plugin.hf.copies import OfAModel
from hetero_plugin.hf.layers import ATTRIBUTE, LayerNoise, is_noisy, make_noisy
from hetero_plugin.operator import Chain

__all__ = ["Place", "Places", "reads_reference"]

log = logging.getLogger("hetero_noise")


@dataclass(eq=False)
class Place:
    """An attribute of a module of the model, and the noise of the linear layer behind it."""

    parent: nn.Module
    leaf: str
    noise: LayerNoise
    stands: nn.Module | None = None
    """What stood there when the last pass began."""
    layers: list[nn.Linear] = field(default_factory=list)
    """The noisy linear layers in it."""

    def changed(self) -> bool:
        if self.parent._modules.get(self.leaf) is not self.stands:
            return True
        features = self.noise.site.features
        return any(one.out_features != features for one in self.layers)


class Places(OfAModel):
    """The places of one model."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.places: list[Place] = []
        self._tuner: nn.Module | None = None
        self._told = False

    def add(self, parent: nn.Module, leaf: str, noise: LayerNoise) -> None:
        """A place that is looked at, if what may come to stand there matters."""
        if noise.attention is not None or noise.site.kind == "lm_head":
            place = Place(parent, leaf, noise)
            self.places.append(place)
            self._settle(place)

    def look(self, module: nn.Module, args: Any) -> None:
        """Forward pre-hook of the decoder: gives noise to what has come to stand at a place."""
        for place in self.places:
            if place.changed():
                self._settle_now(place)
        if not self._told and not torch.compiler.is_compiling():
            self._look_for_reference(module)

    @torch.compiler.disable
    def _settle_now(self, place: Place) -> None:
        self._settle(place)

    def _settle(self, place: Place) -> None:
        now = place.parent._modules.get(place.leaf)
        place.stands, place.layers = now, []
        if now is None:
            return
        noise = place.noise
        place.layers = [
            one
            for one in now.modules()
            if one.__dict__.get(ATTRIBUTE) is noise and isinstance(one, nn.Linear)
        ]
        for one in _stand_ins(now):
            if type(one) is nn.Linear:
                make_noisy(one, noise, "linear")
                place.layers.append(one)
        if not place.layers:
            return  # it will not have run when the pass ends
        self._fit(place)
        if now not in place.layers and noise.attention is not None and not is_noisy(now):
            make_noisy(now, noise, "adapted")

    def _fit(self, place: Place) -> None:
        """A head that was made larger or smaller: its columns keep their addresses."""
        noise, old = place.noise, place.noise.site
        sizes = {one.out_features for one in place.layers}
        if len(sizes) > 1 or sizes == {old.features}:
            return
        (features,) = sizes
        log.info(
            "hetero_noise: %s has %d outputs, and %d when the model was wrapped; the error of each "
            "is what it was",
            old.name,
            features,
            old.features,
        )
        site = replace(old, features=features)
        output = Chain.of(self.context.state, "output", [(site.name, features, 0)])
        place.noise = replace(noise, site=site, output=output)
        for one in place.layers:
            object.__setattr__(one, ATTRIBUTE, place.noise)
        for mark in noise.marks:
            if self.context.places[mark][0] is old:
                self.context.places[mark] = (site, place.layers[0])

    def _look_for_reference(self, decoder: nn.Module) -> None:
        if not any("peft_config" in vars(m) for m in self.context.attachment.holders):
            self._tuner = None
            return
        if self._tuner is None:
            self._tuner = _tuner(decoder)
        if self._tuner is None or not any(self.context.state.nonzero) or not _is_off(self._tuner):
            return
        self._told = True
        log.warning(
            "hetero_noise: a forward pass with PEFT's adapters switched off, or with TRL's frozen "
            "copy of them: it has the spec's error all the same. If it is the reference policy of "
            "DPO, KTO or the like, that policy is noisy; run it inside `with disabled(model)`, or "
            "give the trainer a ref_model of its own (docs/huggingface.md)"
        )


def _stand_ins(module: nn.Module) -> list[nn.Module]:
    """A module, or what PEFT's modules_to_save runs in place of it."""
    saved = module._modules.get("modules_to_save")
    return [module] if saved is None else list(saved.children())


def _tuner(model: nn.Module) -> nn.Module | None:
    """The first of PEFT's adapter layers; all of them are switched together."""
    for module in model.modules():
        if hasattr(module, "adapter_layer_names") and hasattr(module, "disable_adapters"):
            return module
    return None


def _is_off(tuner: Any) -> bool:
    return bool(tuner.disable_adapters) or "ref" in getattr(tuner, "active_adapters", ())


def reads_reference(model: nn.Module) -> bool:
    """Whether PEFT's adapters are switched off, or TRL's frozen copy `ref` of them is on."""
    tuner = _tuner(model)
    return tuner is not None and _is_off(tuner)
