"""Words for selected sites that a forward pass did not run: what was found in their places."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hetero_plugin.hf.forwards import own_name
from hetero_plugin.sites import Site

_NAMED = 6  # sites in a message


def _why(model: nn.Module, site: Site, carrier: nn.Module) -> str:
    """What became of one site's module."""
    if not any(module is carrier for module in model.modules()):
        return (
            f"its {_clean_name(carrier)} is no longer in the model: something put another layer in "
            "its place after wrap (a resized or tied head, a merged adapter, a replaced layer); "
            "unwrap(model) and wrap it again after that"
        )
    own = carrier.__dict__.get("forward")
    if own is not None:
        return (
            f"its forward is {own_name(own)}, which does not call the layer's own; wrap the model "
            "after whatever sets it, or leave this layer out"
        )
    if not hasattr(type(carrier), "hetero_clean_class"):
        return f"its class was changed to {type(carrier).__name__} after wrap"
    fused = model.__dict__.get("forward")
    if fused is not None:
        name = own_name(fused)
        trl = ", or use the trainer of hetero_plugin.trl" if name.startswith("trl.") else ""
        return (
            f"the forward of {type(model).__name__} is {name}, which computes past it: a fused "
            f"loss multiplies by its weight. Switch that off, exclude the site{trl}"
        )
    return (
        "nobody called it: something multiplied by its weight or computed past it (a fused loss or "
        "kernel); switch that off, or exclude the site"
    )


def _clean_name(module: nn.Module) -> str:
    return getattr(type(module), "hetero_clean_class", type(module)).__name__


def describe(model: nn.Module, dead: Sequence[tuple[Site, nn.Module]]) -> str:
    """The message for sites that did not run.

    Args:
        model: whose call it was: the decoder, or what has the head.
        dead: the sites, and the modules that were made noisy for them.
    """
    by_reason: dict[str, list[str]] = {}
    for site, carrier in dead:
        by_reason.setdefault(_why(model, site, carrier), []).append(site.name)
    reasons = "; ".join(
        f"{', '.join(names[:_NAMED])}{f' and {len(names) - _NAMED} more' * (len(names) > _NAMED)}: "
        f"{why}"
        for why, names in by_reason.items()
    )
    return (
        f"{len(dead)} selected site{'s' if len(dead) > 1 else ''} did not run in this forward pass "
        f"of {type(model).__name__}, and would be clean without a word. {reasons}"
    )
