"""Text to data: JSON and YAML, as data only, with nothing lost on the way.

No tag of YAML's makes an object, a key that is given twice is an error (both parsers would keep the
last one and say nothing), and text that would unfold into more than memory holds is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hetero_plugin.config.problems import ConfigError
from hetero_plugin.config.yaml import load

__all__ = ["check_size", "read_json", "read_yaml"]

_MOST_VALUES = 20_000
_MOST_LEVELS = 50
_TOO_MUCH = f"too large or nested: more than {_MOST_VALUES} values or {_MOST_LEVELS} levels."


def check_size(data: Any) -> None:
    """Raises ConfigError for data that no specification needs, before anything walks it."""
    left = _MOST_VALUES

    def walk(value: Any, level: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or level > _MOST_LEVELS:
            raise ConfigError(_TOO_MUCH)
        if isinstance(value, Mapping):
            for inner in value.values():
                walk(inner, level + 1)
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            for inner in value:
                walk(inner, level + 1)

    walk(data, 0)


def _once(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    data: dict[Any, Any] = {}
    for key, value in pairs:
        if key in data:
            raise ConfigError(f"the key {key!r} is given twice; one of the two would be lost.")
        data[key] = value
    return data


def read_json(text: str) -> Any:
    """The data of JSON text.

    Raises:
        ConfigError: not JSON, a key twice in one object, or too much of it.
    """
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ConfigError(_TOO_MUCH) from None
    except ConfigError:
        raise
    except ValueError as error:  # also an integer of thousands of digits
        raise ConfigError(f"not valid JSON: {error}.") from None
    check_size(data)
    return data


def read_yaml(text: str) -> Any:
    """The data of YAML text, plain types only; weighed before it unfolds (``config/yaml.py``).

    Raises:
        ConfigError: not YAML, a key twice in one mapping, too much of it, or no PyYAML.
    """
    try:
        data = load(text, _MOST_VALUES, _MOST_LEVELS)
    except ImportError:
        raise ConfigError(
            "reading YAML needs PyYAML: pip install 'hetero-plugin[hf]'; or write the "
            "specification as JSON."
        ) from None
    check_size(data)
    return data
