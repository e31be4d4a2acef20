"""Decoder layers as a user names them: 3, "3" or "2-5", both ends included."""

from __future__ import annotations

import re
from typing import Any

from hetero_plugin.config.base import no_bool
from hetero_plugin.config.problems import ConfigError, shown

__all__ = ["as_entries", "check_layers", "layer_range", "numbers_of"]

# Four digits: a range is written out, and no model has ten thousand layers.
_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


def as_entries(value: Any) -> Any:
    """``value`` as a tuple if it is one entry alone; anything else unchanged, for pydantic.

    Raises:
        ConfigError: True or False among the entries.
    """
    entries = (value,) if isinstance(value, int | str) else value
    if isinstance(entries, list | tuple):
        for entry in entries:
            no_bool(entry)
    return entries


def check_layers(layers: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
    """``layers`` as they are.

    Raises:
        ConfigError: an empty list, or an entry that is no layer and no range.
    """
    if layers is not None:
        if not layers:
            raise ConfigError("got an empty list; leave it out to mean every layer.")
        for entry in layers:
            layer_range(entry)
    return layers


def numbers_of(layers: tuple[int | str, ...] | None) -> frozenset[int] | None:
    """The layers as numbers; None for all of them."""
    if layers is None:
        return None
    return frozenset(i for entry in layers for i in layer_range(entry))


def layer_range(entry: int | str) -> range:
    """The layers that one entry of ``layers`` names: 3, "3" or "2-5", both ends included."""
    text = (entry if isinstance(entry, str) else shown(entry)).strip()
    match = _RANGE.fullmatch(text)
    if match is None:
        given = shown(entry) if len(text) < 80 else f"{len(text)} characters"
        raise ConfigError(
            f'got {given}; it should be a layer number from 0 to 9999 or a range like "2-5".'
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ConfigError(
            f'got {entry!r}, which ends before it starts; it should be "{last}-{first}".'
        )
    return range(first, last + 1)
