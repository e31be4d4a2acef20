"""What `print(model)` says of a noisy layer: which error it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hetero_plugin.config import NoiseRule
from hetero_plugin.hf.classes import SORT
from hetero_plugin.hf.experts import ExpertsNoise
from hetero_plugin.hf.layers import ATTRIBUTE, MIXINS, LayerNoise
from hetero_plugin.hf.scores import ScoresNoise

__all__ = ["described", "show"]


def described(module: Any) -> str:
    """The errors of a noisy module, in few words; empty without any.

    Scales are those in force for the next pass: 0 where everything is off, or the phase is another.
    """
    layers = list(_layers(module.__dict__.get(ATTRIBUTE), getattr(type(module), SORT)))
    found = [(layer.site.name.rpartition(".")[2], _errors(layer)) for layer in layers]
    if len(layers) == 1:
        return found[0][1]
    return "; ".join(f"{leaf}: {errors}" for leaf, errors in found if errors)


def _layers(noise: Any, sort: str) -> Iterator[LayerNoise]:
    if noise is None:
        return
    if sort == "adapted":  # PEFT's layer around a projection, which says the rest itself
        yield noise.attention
    elif isinstance(noise, ExpertsNoise):
        yield from (noise.gate_up, noise.act, noise.down)
    elif isinstance(noise, ScoresNoise):
        yield from (noise.scores, noise.softmax)
    else:
        yield noise
        if noise.attention is not None:
            yield noise.attention


def _errors(layer: LayerNoise) -> str:
    state, name = layer.context.state, layer.site.name
    rules = next((chosen.rules for chosen in state.selected if chosen.site.name == name), ())
    errors = [_error(rule, _in_force(state, name, index)) for index, rule in rules]
    if layer.formula is not None:
        errors.append("AQN")
    return ", ".join(errors)


def _in_force(state: Any, site: str, rule: int) -> float:
    """The largest scale of a rule's entries at a site; NaN while nobody has said the phase."""
    slots = [slot for slot in state.slots if slot.site.name == site and slot.rule_index == rule]
    return max((state.in_force[slot.index] for slot in slots), default=0.0)


def _error(rule: NoiseRule, scale: float) -> str:
    size = f"{rule.scale:g} in {rule.phase}" if scale != scale else f"{scale:g}"
    return f"{rule.error} {size} ({rule.point}, {rule.direction})"


def show() -> None:
    """Gives every sort of noisy layer its line in `print(model)`; once, however often called."""
    for mixin in MIXINS.values():
        if "extra_repr" not in vars(mixin):
            _add(mixin)


def _add(mixin: Any) -> None:
    def extra_repr(self: Any) -> str:
        own = super(mixin, self).extra_repr()
        words = described(self)
        return ", ".join(part for part in (own, f"noise=[{words}]" if words else "") if part)

    mixin.extra_repr = extra_repr
