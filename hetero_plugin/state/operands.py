"""Whether a machine has a matrix unit for what a rule `accumulate` would multiply.

Asked where a model is wrapped, planned or configured, so that no pass is the first to say it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hetero_plugin.config import Accumulate, ConfigError, NoiseRule
from hetero_plugin.errors.accumulate import HARDWARE
from hetero_plugin.sites import Selected, Site
from hetero_plugin.state.slots import Phase, check_point

__all__ = ["check_operands", "check_points", "missing_unit", "units_missing"]

_TENSORS = {"bfloat16": "bfloat16", "float16": "float16", "tf32": "float32"}
"""What a tensor's dtype is called, by the operand that it becomes on hardware."""


def missing_unit(index: int, rule: NoiseRule, site: Site, dtype: str) -> str:
    """What is wrong with a rule's hardware for operands of a dtype; empty: nothing.

    Args:
        index: the rule's number in the spec.
        rule: of any error model.
        site: a linear layer or head that it selects.
        dtype: in which the layer multiplies: ``bfloat16``, ``float16`` or ``float32``. Of any other
            nothing is said here.
    """
    how = rule.options
    operand = next((one for one, name in _TENSORS.items() if name == dtype), None)
    if not isinstance(how, Accumulate) or how.hardware is None or operand is None:
        return ""
    units = HARDWARE[how.hardware]
    if how.operands is not None or operand in units:  # FP8 operands are made of any dtype
        return ""
    has = ", ".join(_TENSORS[one] for one in units if one in _TENSORS)
    others = ", ".join(name for name, types in HARDWARE.items() if operand in types)
    return (
        f"rules[{index}].options: hardware is {how.hardware!r}, which has no matrix unit for "
        f"operands of {dtype}, and {site.name} multiplies in {dtype}. Load the model in a dtype "
        f"that {how.hardware} multiplies ({has}), or give hardware that has {dtype}: {others}"
    )


def units_missing(
    chosen: Sequence[tuple[Selected, str]], besides: Phase | None
) -> Iterator[tuple[NoiseRule, str]]:
    """What `missing_unit` says of sites, once a rule: that of the first site.

    Args:
        chosen: sites with the dtype in which each multiplies.
        besides: rules of this phase alone are left out: they are for another engine, whose dtype
            is not known here.
    """
    said = set()
    for one, dtype in chosen:
        for index, rule in one.rules:
            words = missing_unit(index, rule, one.site, dtype)
            if words and index not in said and rule.phase != besides:
                said.add(index)
                yield rule, words


def check_operands(chosen: Sequence[tuple[Selected, str]], besides: Phase | None) -> None:
    """Raises ConfigError for the first thing that `units_missing` finds; arguments as there."""
    for _, words in units_missing(chosen, besides):
        raise ConfigError(words)


def check_points(chosen: Sequence[Selected]) -> None:
    """Raises ConfigError where a rule's point or error has no meaning at a site that it selects."""
    for one in chosen:
        for index, rule in one.rules:
            check_point(index, rule, one.site)
