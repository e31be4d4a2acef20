"""What all parts of a specification share: frozen, no unknown keys, errors in plain words."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hetero_plugin.config.problems import ConfigError, explain, shown

__all__ = ["Frozen", "Number", "Seed", "no_bool", "plain", "table_number", "whole_step"]

# Scales and σ are kept in float32 tables. A number above the largest is infinite there; one below
# the smallest normal is 0, or is taken for 0 by a processor that flushes what is not normal.
_SMALLEST, _LARGEST = 2.0**-126, (2.0 - 2.0**-23) * 2.0**127


def no_bool(value: Any) -> Any:
    """Refuses True and False where a number is meant."""
    # bool is an int to Python, so `scale: true` would silently mean 1.0, an error of 100 %.
    if isinstance(value, bool):
        raise ConfigError(f"got {value!r}; it should be a number.")
    return value


def _finite(value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"got {value!r}; it should be a finite number ≥ 0.")
    if value > _LARGEST:
        raise ConfigError(
            f"got {value!r}, which is infinite in float32, where it is kept; it should be at most "
            f"{_LARGEST:.3g}."
        )
    return value + 0.0  # -0.0 equals 0.0 and must have its fingerprint


Number = Annotated[float, BeforeValidator(no_bool), AfterValidator(_finite)]
"""A number ≥ 0 that is finite in float32. Text such as '5e-2' is taken, since YAML reads that as
text."""


def table_number(name: str, value: Any) -> float:
    """A scale or σ on its way into a table.

    Raises:
        ConfigError: no number ≥ 0, or not 0 and beyond what float32 holds: it would be infinite
            there, or 0, which would be a clean run under the name of a noisy one.
    """
    try:
        number = float(no_bool(value))
        if not (math.isfinite(number) and number >= 0):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name} is {shown(value)}; it must be a finite number >= 0") from None
    if number and not _SMALLEST <= number <= _LARGEST:
        becomes = "infinite" if number > _LARGEST else "0"
        raise ConfigError(
            f"{name} is {number!r}, which is {becomes} in the float32 table that it is kept in; it "
            f"must be 0 or lie between {_SMALLEST:.3g} and {_LARGEST:.3g}"
        )
    return number + 0.0


def whole_step(value: Any) -> int:
    """A noise step as an int: 0 … 2⁶³ − 1, since others would share the draw of one of these.

    Raises:
        ConfigError: it is anything else.
    """
    try:
        whole = int(value) if isinstance(value, float) else operator.index(no_bool(value))
        if whole == value and 0 <= whole < 2**63:
            return whole
    except (TypeError, ValueError, OverflowError):
        pass
    raise ConfigError(f"step: got {shown(value)}; it should be a whole number from 0 to 2⁶³ − 1.")


Seed = Annotated[int, BeforeValidator(no_bool), Field(ge=0, lt=2**63)]
"""A seed: 0 … 2⁶³ − 1, what an int64 tensor holds."""


def plain(value: Any) -> Any:
    """Any mapping or sequence (such as OmegaConf's) as dicts and lists, all the way down."""
    if isinstance(value, BaseModel):
        return value
    if isinstance(value, Mapping):
        return {k if isinstance(k, str) else shown(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(v) for v in value]
    return value


class Frozen(BaseModel):
    """Base of the specification's classes.

    Raises:
        ConfigError: on construction, instead of pydantic's ValidationError.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        # The text under a field is its description: in the JSON schema, in the reference, and word
        # for word in the tables of docs/configuration.md.
        use_attribute_docstrings=True,
    )

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            keys = dict.fromkeys(type(self).known_keys())
            raise explain(type(self).__name__, error, keys) from None

    @classmethod
    def known_keys(cls) -> Iterable[str]:
        """The keys that a user may write."""
        return tuple(cls.model_fields)

    def replace(self, **changes: Any) -> Self:
        """A copy with ``changes``, validated (``model_copy`` does not validate).

        Raises:
            ConfigError: the changed copy is not valid.
        """
        return type(self)(**{**self.model_dump(), **changes})
