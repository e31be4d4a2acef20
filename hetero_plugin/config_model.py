"""What all parts of a specification share: frozen, no unknown keys, errors in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hetero_plugin.config_errors import ConfigError, explain

__all__ = ["Frozen", "Number", "Seed", "no_bool", "plain"]


def no_bool(value: Any) -> Any:
    """Refuses True and False where a number is meant."""
    # bool is an int to Python, so `scale: true` would silently mean 1.0, an error of 100 %.
    if isinstance(value, bool):
        raise ConfigError(f"got {value!r}; it should be a number.")
    return value


def _finite(value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"got {value!r}; it should be a finite number ≥ 0.")
    return value + 0.0  # -0.0 equals 0.0 and must have its fingerprint


Number = Annotated[float, BeforeValidator(no_bool), AfterValidator(_finite)]
"""A finite number ≥ 0. Text such as '5e-2' is taken, since YAML reads that as text."""

Seed = Annotated[int, BeforeValidator(no_bool), Field(ge=0, lt=2**63)]
"""A seed: 0 … 2⁶³ − 1, what an int64 tensor holds."""


def plain(value: Any) -> Any:
    """Any mapping or sequence (such as OmegaConf's) as dicts and lists, all the way down."""
    if isinstance(value, BaseModel):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(v) for v in value]
    return value


class Frozen(BaseModel):
    """Base of the specification's classes.

    Raises:
        ConfigError: on construction, instead of pydantic's ValidationError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

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
