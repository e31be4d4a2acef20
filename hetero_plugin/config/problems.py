"""What a user sees when a setting is wrong: what was given, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

__all__ = ["ConfigError", "did_you_mean", "explain", "shown"]

_MOST_SHOWN = 200


class ConfigError(ValueError):
    """A setting that can't be used.

    The text names the value, the place it came from and what would be right. ``problems``
    holds the same as (location, text) pairs, so that an enclosing model can say where in it
    the fault lies.
    """

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[Any, ...]:
        # Engines carry exceptions between processes; the second argument must survive.
        return (type(self), (str(self), self.problems))


def shown(value: Any) -> str:
    """``repr`` of what a user gave, for an error: never long, never an error of its own."""
    if isinstance(value, int) and value.bit_length() > 512:
        return f"a whole number of {value.bit_length()} bits"  # Python prints none of 4,301 digits
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # such a number, or too many levels, inside of it
        return f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}… ({len(text)} characters)"


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """' Did you mean …?' with the close matches of ``word``, or an empty string."""
    if not isinstance(word, str):
        return ""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def _place(location: Sequence[int | str]) -> str:
    """('rules', 0, 'scale') -> 'rules[0].scale'."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif text:
            text += f".{part}"
        else:
            text = part
    return text


def _problems(error: ValidationError, keys: Mapping[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for item in error.errors(include_url=False):
        place = _place(item["loc"])
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError) and cause.problems:
            # A nested model has already explained itself; only say where it sits.
            for inner, text in cause.problems:
                joined = inner if not place else f"{place}.{inner}" if inner else place
                found.append((joined, text))
        elif item["type"] == "extra_forbidden":
            key = str(item["loc"][-1])
            text = f"unknown key {key!r}.{did_you_mean(key, keys)} Known keys: {', '.join(keys)}."
            found.append((_place(item["loc"][:-1]), text))
        elif item["type"] == "missing":
            found.append((place, "is required and was not given."))
        elif isinstance(cause, Exception):
            found.append((place, str(cause)))
        else:
            want = item["msg"].removeprefix("Input should be ")
            found.append((place, f"got {shown(item['input'])}; it should be {want}."))
    return found


def explain(what: str, error: ValidationError, keys: Mapping[str, Any]) -> ConfigError:
    """A validation error of pydantic's, as one a user can act on.

    Args:
        what: name of the thing that was being built, e.g. ``NoiseConfig``.
        error: pydantic's error.
        keys: the keys that ``what`` knows; an unknown key is compared with them.

    Returns:
        The ConfigError to raise; nothing is raised here.
    """
    problems = _problems(error, keys)
    lines = [f"{place}: {text}" if place else text for place, text in problems]
    return ConfigError(f"{what}: {' '.join(lines)}", problems)
