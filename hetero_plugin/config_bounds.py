"""What a scale or σ may be: a number that the float32 table, which layers read, can hold."""

from __future__ import annotations

import math
from typing import Any

from hetero_plugin.config_errors import ConfigError

__all__ = ["table_number"]

# One below the smallest normal number is 0, or taken for 0 by a processor that flushes it.
_SMALLEST, _LARGEST = 2.0**-126, (2.0 - 2.0**-23) * 2.0**127


def table_number(name: str, value: Any) -> float:
    """A scale or σ on its way into a table.

    Args:
        name: what it is, for the error.
        value: whatever was given.

    Raises:
        ConfigError: no number ≥ 0, or not 0 and beyond what float32 holds.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        number = float(value)
        if not (math.isfinite(number) and number >= 0):
            raise ValueError
    except (ValueError, OverflowError):
        huge = isinstance(value, int) and value.bit_length() > 512  # Python may refuse to print it
        shown = f"a whole number of {value.bit_length()} bits" if huge else repr(value)[:80]
        raise ConfigError(f"{name} is {shown}; it must be a finite number >= 0") from None
    if number and not _SMALLEST <= number <= _LARGEST:
        becomes = "infinite" if number > _LARGEST else "0"
        raise ConfigError(
            f"{name} is {number!r}, which is {becomes} in the float32 table that it is kept in; it "
            f"must be 0 or lie between {_SMALLEST:.3g} and {_LARGEST:.3g}"
        )
    return number + 0.0  # -0.0 as 0.0
