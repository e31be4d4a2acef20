"""What the linear layers of a Hugging Face model multiply, before any pass shows it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.config.error_models import REGISTRY
from hetero_plugin.hf.discover import Found
from hetero_plugin.hf.held import check_plain
from hetero_plugin.sites import Selected
from hetero_plugin.state.operands import check_operands

__all__ = ["check_products"]


def _multiplied(weight: Tensor) -> torch.dtype:
    """The dtype of a layer's operands: the weight's, or what autocast makes of it here."""
    for kind in dict.fromkeys((weight.device.type, "cuda", "cpu")):
        if kind != "meta" and torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
    return weight.dtype


def check_products(found: Sequence[Found], selected: Sequence[Selected]) -> None:
    """Refuses rules `accumulate` that a model's weights are not for.

    Rules of the rollout alone are left to the engine of the rollout.

    Args:
        found: the model's sites, with their modules.
        selected: those that the spec selects.

    Raises:
        ConfigError: a weight is quantised already, or the hardware has no matrix unit for its
            dtype, or for autocast's where that is on.
    """
    modules = {one.site.name: one.module for one in found}
    pairs = []
    for one in selected:
        if not any(REGISTRY[rule.error].of_product for _, rule in one.rules):
            continue
        module = modules[one.site.name]
        check_plain(one.site, module)
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            pairs.append((one, str(_multiplied(weight)).removeprefix("torch.")))
    try:
        check_operands(pairs, besides="rollout")
    except ConfigError as error:
        raise ConfigError(
            f"{error}. If passes are to run under autocast or FSDP's mixed precision, wrap the "
            "model inside torch.autocast(device, dtype) too, which says so"
        ) from None
