"""Weights whose error is fixed: engines compute them once and keep them beside the clean ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hetero_plugin.config import NoiseRule
from hetero_plugin.config.error_models import REGISTRY
from hetero_plugin.sites.select import Selected, family_of

__all__ = ["fixed_weights"]


def _is_fixed(rule: NoiseRule) -> bool:
    """Whether a rule's error is a function of the weight and the scale alone."""
    traits = REGISTRY[rule.error]
    return traits.draws is None and not (traits.additive and rule.rounding == "stochastic")


def fixed_weights(
    selected: Sequence[Selected], hf_config: Mapping[str, object]
) -> list[tuple[str, int]]:
    """Name and number of elements of each weight that has a fixed error in the forward pass.

    Where a rule with a random error is at the same weight, all of it is computed in every pass, and
    the weight is not among these. Elements are those of the whole model, over all tensor-parallel
    ranks; experts of a layer are one weight.

    Args:
        selected: the sites of a spec.
        hf_config: the model's config.json.
    """
    found = []
    for one in selected:
        at_weight = [
            rule
            for _, rule in one.rules
            if rule.point == "weight"
            and rule.direction != "backward"
            and not REGISTRY[rule.error].of_product
        ]
        if not at_weight or not all(map(_is_fixed, at_weight)) or one.site.in_features is None:
            continue
        elements = one.site.features * one.site.in_features
        if ".experts." in one.site.name:
            elements *= family_of(hf_config.get("model_type")).sizes(hf_config)["experts"]
        found.append((one.site.name, elements))
    return found
