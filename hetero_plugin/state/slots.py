"""Slots: which entry of the scale table belongs to which rule, site and stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hetero_plugin.config import ConfigError, NoiseRule
from hetero_plugin.config.error_models import REGISTRY
from hetero_plugin.sites import Site

Phase = Literal["rollout", "train"]
GEMM_KINDS = ("linear", "lm_head", "router")
PRODUCTS = ("product", "product_grad_input", "product_grad_weight")
"""The three products of matrices of a linear layer: streams of `accumulate`."""

DGRAD = {"input": "grad_output", "weight": "weight_transposed"}
"""What a number format rounds for the gradient of a linear layer's input: streams by point."""


def streams(rule: NoiseRule, kind: str) -> tuple[str, ...]:
    """The streams in which a rule puts error at a site of this kind."""
    found: tuple[str, ...] = ()
    if REGISTRY[rule.error].number_format:
        found = () if rule.direction == "backward" else (rule.point,)
        return found if rule.direction == "forward" else (*found, DGRAD[rule.point])
    if REGISTRY[rule.error].of_product:
        forward = rule.direction in ("forward", "both")
        return PRODUCTS[not forward : 3 if rule.direction != "forward" else 1]
    if rule.direction in ("forward", "both"):
        found += (rule.point,)
    if rule.direction in ("backward", "both"):
        # What the operator's backward computes: two GEMMs for a linear layer, else one.
        found += ("grad_input", "grad_weight") if kind in GEMM_KINDS else ("grad_input",)
    return found


def check_point(index: int, rule: NoiseRule, site: Site) -> None:
    """Raises ConfigError where a rule's point does not exist at a site: nothing would happen."""
    if REGISTRY[rule.error].of_product:
        if site.kind not in ("linear", "lm_head") or ".experts." in site.name:
            what = f"the kind {site.kind}"
            if ".experts." in site.name:
                what = "experts, which kernels multiply that take all of a layer's at once"
            raise ConfigError(
                f"rules[{index}].error is {rule.error!r}, and {site.name} is of {what}; it is for "
                "the plain products of linear layers and lm_head. Exclude it ('*.experts.*')"
            )
        return
    format_backward = REGISTRY[rule.error].number_format and rule.direction != "forward"
    if format_backward and (site.kind not in ("linear", "lm_head") or ".experts." in site.name):
        what = "experts" if ".experts." in site.name else f"the kind {site.kind}"
        raise ConfigError(
            f"rules[{index}].direction is {rule.direction!r} with the number format "
            f"{rule.error!r}, and {site.name} is of {what}; backward, formats are for the plain "
            "products of linear layers and lm_head. Give direction: forward, or exclude it"
        )
    if rule.direction == "backward":
        return
    if rule.point == "weight" and site.kind not in GEMM_KINDS:
        raise ConfigError(
            f"rules[{index}].point is 'weight', and {site.name} is of the kind {site.kind}, which "
            f"has no matrix; weights of the kinds {', '.join(GEMM_KINDS)} can have error (for "
            "norm weights there is AQN)"
        )
    if rule.point == "input" and site.kind in ("attention", "attention_scores"):
        what = "softmax·V" if site.kind == "attention" else "the scores and the softmax themselves"
        raise ConfigError(
            f"rules[{index}].point is 'input', and {site.name} is of the kind {site.kind}, whose "
            f"error is on its output, {what}; put error on q_proj, k_proj, v_proj for its inputs"
        )


@dataclass(frozen=True)
class Slot:
    """One entry of the scale table: one stream of one rule at one site."""

    index: int
    site: Site
    rule_index: int
    rule: NoiseRule
    stream: str
