"""What is said of a specification when it meets a model."""

from __future__ import annotations

import logging

import torch

from hetero_plugin.config import NoiseConfig
from hetero_plugin.config.error_models import REGISTRY
from hetero_plugin.errors.resolution import half_ulp, share_changed

__all__ = ["warn_of_rules"]

log = logging.getLogger("hetero_noise")


def warn_of_rules(config: NoiseConfig, dtype: torch.dtype) -> None:
    """Warns of rules whose error vanishes, leaves no gradient, or is not what it may seem."""
    backward = [
        f"rules[{index}] ({rule.error}, point: {rule.point})"
        for index, rule in enumerate(config.rules)
        if REGISTRY[rule.error].number_format
        and rule.direction != "forward"
        and rule.phase != "rollout"
        and rule.scale > 0
    ]
    if backward:
        log.warning(
            "hetero_noise: %s: of the gradients' products that for the input (dgrad) has operands "
            "in the format; that for the weight (wgrad) is computed without, since it sums over "
            "tokens: blocks would run along the batch, and a token's error depend on the others",
            ", ".join(backward),
        )
    for index, rule in enumerate(config.rules):
        if rule.spoils_gradients and rule.scale > 0:
            log.warning(
                "hetero_noise: rules[%d] puts %s with scale %g on gradients as well (direction "
                "%s). The scale is in units of activations, and gradients are far smaller: at "
                "0.05 on a small model their norm went from 12 to 820, and their cosine to the "
                "clean ones to 0.05. Use direction: forward, or an error relative to its value",
                index,
                rule.error,
                rule.scale,
                rule.direction,
            )
        if REGISTRY[rule.error].number_format and rule.point == "output" and rule.scale > 0:
            log.warning(
                "hetero_noise: rules[%d] puts the format %s on outputs: what a cache or a transfer "
                "in it would do. A product in this format has it on its operands: point: weight "
                "and point: input, as the presets of formats have",
                index,
                rule.error,
            )
        if rule.rounding != "nearest" or rule.error not in (
            "relative_gaussian",
            "relative_uniform",
        ):
            continue
        if 0 < rule.scale < half_ulp(dtype):
            share = share_changed(rule.scale, dtype, rule.error)
            log.warning(
                "hetero_noise: rules[%d] asks for a relative error of %g rounded to nearest, "
                "under half an ulp of %s (%.3g): it will change %.2f %% of the elements. "
                "Use rounding: stochastic, which realises it",
                index,
                rule.scale,
                str(dtype).removeprefix("torch."),
                half_ulp(dtype),
                100 * share,
            )


def tell_of_a_clean_copy() -> None:
    """Says that a copy made inside `disabled` stays clean."""
    log.warning(
        "hetero_noise: a model was copied inside `disabled`: the copy is switched off and stays so "
        "until state_of(copy).set_enabled(True)"
    )
