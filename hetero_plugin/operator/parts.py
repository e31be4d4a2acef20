"""The column ranges of a tensor that are sites, and what each rule's error needs of them."""

from __future__ import annotations

from collections.abc import Sequence

from hetero_plugin.config import ConfigError, NoiseRule
from hetero_plugin.errors import ErrorModel, error_model
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState
from hetero_plugin.state.profiles import profile_word

__all__ = ["Part", "check_experts", "check_whole", "word_at", "words_of"]

_OF_OUTPUTS = ("output", "grad_output", "weight_transposed")
"""Streams whose tensors have a column for each output feature."""
Part = tuple[str, int, int]
"""Site name, columns it takes in the tensor, global index of its first column."""


def words_of(
    state: NoiseState, parts: Sequence[Part], index: int, slots: Sequence[int], stream: str
) -> list[str]:
    """By what words the operator knows a rule's error at each part; empty where it has none."""
    rule = state.config.rules[index]
    if not any(slots):
        return []
    sites = {site.name: site for site in state.sites}
    return [
        ""
        if not slot
        else word_at(rule, sites[name], stream)
        if rule.path is None
        else profile_word(index, rule, sites[name], state.config.seed)
        for (name, _, _), slot in zip(parts, slots, strict=True)
    ]


def word_at(rule: NoiseRule, site: Site, stream: str) -> str:
    """By what words the operator knows a rule's error, no profile, at a stream of a site.

    The weights of a layer's experts are one tensor of many matrices. What is a scale of a whole
    weight elsewhere, or of tiles of it, is one of each expert's matrix there.
    """
    word = rule.word_of(stream)
    if ".experts." not in site.name or stream != "weight":
        return word
    model = error_model(word, relative=rule.relative)
    return f"{word}|each:{site.features}" if model.whole_tensor or model.block_rows > 1 else word


def check_experts(rule: int, model: ErrorModel, stream: str) -> None:
    """Raises ConfigError for scales that would be those of several experts together."""
    if stream != "weight" and (model.whole_tensor or model.block_rows > 1):
        name, instead = model.name.partition("|")[0], "granularity: row"
        instead = "tensor_scale: row" if name == "nvfp4" else instead
        raise ConfigError(
            f"rules[{rule}]: {name} with a scale of the whole tensor or of tiles of it, and the "
            f"experts of a layer are one tensor here ({stream}); give options: {{{instead}}}, or "
            "exclude them ('*.experts.*')"
        )


def check_whole(
    state: NoiseState, stream: str, parts: Sequence[Part], rule: int, model: ErrorModel
) -> None:
    """Raises ConfigError where a site's columns here are not all that its error needs."""
    sites = {site.name: site for site in state.sites}
    for name in dict.fromkeys(part[0] for part in parts):
        site = sites.get(name)
        if site is None or state.slot(name, rule, stream) is None:
            continue
        whole = site.features
        if stream not in _OF_OUTPUTS and site.in_features is not None:
            whole = site.in_features
        spans = [(columns, offset) for one, columns, offset in parts if one == name]
        if model.block and all(
            offset % model.block == 0
            and ((offset + columns) % model.block == 0 or offset + columns == whole)
            for columns, offset in spans
        ):
            continue
        if model.block:
            raise ConfigError(
                f"rules[{rule}]: the error {model.name} is that of blocks of {model.block} "
                f"columns, and here {name} ({stream}) holds columns {spans[0][1]} to "
                f"{spans[0][1] + spans[0][0]} of {whole}, which cuts one: use a number of ranks "
                "that divides the columns at edges of blocks, or another format"
            )
        if len(spans) > 1 or spans[0] != (whole, 0):
            held = sum(columns for columns, _ in spans)
            what = "size of all" if model.measured else "largest"
            raise ConfigError(
                f"rules[{rule}]: the error {model.name.partition('|')[0]} of an element depends on "
                f"the {what} of its whole row, and here {name} ({stream}) holds {held} of {whole} "
                "columns"
                f"{'' if len(spans) == 1 else f', in {len(spans)} pieces'}: with tensor "
                "parallelism every rank would take the largest of its own share, and the result "
                "depend on their number. Use one rank, another error model, or sites and points "
                "that are not sharded (norms; the outputs of o_proj and down_proj)"
            )
