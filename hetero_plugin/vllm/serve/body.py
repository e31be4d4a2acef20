"""The body of a POST to ``/v1/hetero_noise``: from a client's bytes to a change, or a refusal."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)

from hetero_plugin.config import ConfigError, table_number
from hetero_plugin.config.problems import shown
from hetero_plugin.config.read import read_json

MOST_BYTES = 1 << 16
"""The longest body that is read; no change needs a hundredth of it."""
_LONGEST = 400
"""Characters of a part of a refusal."""


def _held(value: float, info: ValidationInfo) -> float:
    return table_number(str(info.field_name), value)


# The bounds before it give the common mistakes pydantic's shorter sentences.
Scale = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_held)]
Step = Annotated[int, Field(ge=0, lt=2**63)]


class Refused(ValueError):
    """A change that can't be made; the text says why, and can be sent as it is."""

    def __init__(self, why: str) -> None:
        # A lone surrogate, which JSON can spell and UTF-8 can't, would fail where it is sent.
        super().__init__(why.encode("utf-8", "backslashreplace").decode())


class AQNChange(BaseModel):
    """AQN alone, where the spec has it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sigma: Scale | None = None
    """This σ, rather than the schedule's of the step."""
    step: Step | None = None
    """The step of z, and of the schedule's σ; default: the one in force."""
    enabled: bool | None = None
    """Switches the offsets, and forgets nothing: what is set while off is in force afterwards."""


class Change(BaseModel):
    """The body of a POST."""

    model_config = ConfigDict(extra="forbid", strict=True)

    scale: Scale | None = None
    kind: str | None = None
    site: str | None = None
    enabled: bool | None = None
    """Without kind and site: everything, AQN too."""
    reset: bool = False
    """First back to the scales of the spec."""
    step: Step | None = None
    """Noise step, and AQN's where the spec has AQN."""
    aqn: AQNChange | None = None
    wait: bool = True
    """Let the running requests finish first, and hold new ones meanwhile; so no response mixes two
    settings. False: at once; running requests go on under the new setting."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What the workers are asked for, as keywords of ``hetero_noise_change``."""
        return self.model_dump(exclude={"wait"})


_KEYS = ", ".join(name for name in Change.model_fields if name != "aqn")
_AQN_KEYS = ", ".join(AQNChange.model_fields)


def parse(body: bytes) -> Change:
    """The change that a request's body asks for.

    Raises:
        Refused: no JSON object in UTF-8, too long or nested, a key that is unknown or given twice,
            a bad value, or nothing to do.
    """
    if len(body) > MOST_BYTES:
        raise Refused(f"the body has {len(body)} bytes; the most that is read is {MOST_BYTES}")
    try:
        given = read_json(body.decode("utf-8") or "null")
    except UnicodeDecodeError as error:
        raise Refused(f"the body is no JSON: it is not UTF-8: {error.reason}") from None
    except ConfigError as error:
        raise Refused(f"the body is no JSON that can be taken: {_cut(str(error))}") from None
    if not isinstance(given, dict):
        raise Refused(
            f'the body is {shown(given)}; it should be an object such as {{"scale": 0.05}}'
        )
    try:
        change = Change.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = _cut(".".join(str(part) for part in first["loc"])) or "a key"
        message = first["msg"].removeprefix("Value error, ")
        raise Refused(
            f"{where}: {_cut(message)}, got {shown(first['input'])}. "
            f"Keys: {_KEYS}, aqn (an object; {_AQN_KEYS})"
        ) from None
    _check_some(change)
    return change


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _check_some(change: Change) -> None:
    aqn = change.aqn
    if aqn is not None and aqn.sigma is None and aqn.step is None and aqn.enabled is None:
        raise Refused(f"aqn: nothing to do: give {_AQN_KEYS}")
    nothing = change.scale is None and change.enabled is None
    if nothing and not change.reset and change.step is None and aqn is None:
        raise Refused("nothing to do: give scale, enabled, reset, step or aqn")
    if nothing and (change.kind is not None or change.site is not None):
        raise Refused("kind and site say what scale or enabled apply to; give one of these")


def check(change: Change, sites: list[dict[str, Any]]) -> None:
    """Refuses a kind or site that the engine does not have, before any worker is asked.

    Args:
        sites: the answer of ``hetero_noise_sites``.
    """
    wanted = {k: v for k, v in (("kind", change.kind), ("site", change.site)) if v is not None}
    if wanted and not any(all(site[k] == v for k, v in _named(wanted)) for site in sites):
        kinds = sorted({site["kind"] for site in sites})
        raise Refused(
            f"no noisy site matches {shown(wanted)}; kinds of this engine: {', '.join(kinds)}"
        )


def _named(wanted: dict[str, str]) -> list[tuple[str, str]]:
    return [("name" if key == "site" else key, value) for key, value in wanted.items()]
