"""A factor on AQN's σ for each decoder layer: a list, a mapping, or the file of a sensitivity map.

Two forms are kept, both immutable: a tuple of numbers is one factor for every layer of the model,
in order; a tuple of (layer, factor) pairs names some layers, and the others keep the factor 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetero_plugin.config.base import no_bool
from hetero_plugin.config.layers import layer_range
from hetero_plugin.config.problems import ConfigError, shown
from hetero_plugin.config.read import read_json, read_yaml

__all__ = ["Multipliers", "beside", "factors_of", "read_multipliers", "written"]

Multipliers = tuple[float, ...] | tuple[tuple[int, float], ...]

_KEY = "multipliers"
"""Where a sensitivity map that holds more than factors has them."""
_LARGEST = 1000.0
_READERS = {".json": read_json, ".yaml": read_yaml, ".yml": read_yaml}


def read_multipliers(value: Any) -> Multipliers | None:
    """Factors from what a user wrote.

    Args:
        value: numbers, one for every layer; a mapping of layers (``14``, ``"14-17"``) to numbers;
            pairs of the two; or the ``Path`` of a .json or .yaml file with one of these, alone or
            under the key ``multipliers``. Text is no path: a specification may come from a
            checkpoint or over a network, and must not name files to open.

    Raises:
        ConfigError: anything else, a number that is not above 0, a layer with two factors, or a
            file that can't be read.
    """
    if value is None:
        return None
    if isinstance(value, Path):
        return _read(value)
    if isinstance(value, Mapping):
        return _pairs(list(value.items()))
    if isinstance(value, list | tuple):
        if value and all(isinstance(one, list | tuple) and len(one) == 2 for one in value):
            return _pairs([tuple(one) for one in value])
        if not value:
            raise ConfigError("got none; leave it out to mean a factor of 1 everywhere.")
        return tuple(_factor(one, f"layer {index}") for index, one in enumerate(value))
    raise ConfigError(
        f"got {shown(value)}; it should be a list with a number for every layer, a mapping such as "
        '{"14-17": 1.5}, or, in a specification that is a file of its own, the path of a .json or '
        ".yaml file with one of these."
    )


def _pairs(items: list[Any]) -> tuple[tuple[int, float], ...]:
    if not items:
        raise ConfigError("got none; leave it out to mean a factor of 1 everywhere.")
    found: dict[int, float] = {}
    for word, factor in items:
        no_bool(word)
        for layer in layer_range(word):
            if layer in found:
                raise ConfigError(f"layer {layer} is given twice; one of the two would be lost.")
            found[layer] = _factor(factor, f"layer {word}")
    return tuple(sorted(found.items()))


def _factor(value: Any, where: str) -> float:
    try:
        number = float(no_bool(value))
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    if not 0 < number <= _LARGEST:  # NaN is neither
        raise ConfigError(
            f"{where}: got {shown(value)}; a factor should be a number above 0 and at most "
            f"{_LARGEST:g}. Leave a layer out of AQN with `layers`."
        )
    return number


def _read(path: Path) -> Multipliers | None:
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise ConfigError(f"{path}: the suffix should be one of {', '.join(_READERS)}.")
    try:
        data = reader(path.read_text(encoding="utf-8"))
        if isinstance(data, Mapping) and _KEY in data:
            data = data[_KEY]
        if data is None or isinstance(data, str):
            raise ConfigError(
                f"holds {shown(data)}; it should hold a list or a mapping of factors, alone or "
                f"under the key {_KEY!r}."
            )
        return read_multipliers(data)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: can't be read: {why}.") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def beside(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A specification's mapping in which the text of ``aqn.multipliers`` is a path.

    Args:
        data: as read from a file that the user named.
        folder: where that file lies; the path is relative to it.
    """
    aqn = data.get("aqn")
    if not isinstance(aqn, Mapping) or not isinstance(aqn.get(_KEY), str):
        return data
    return {**data, "aqn": {**aqn, _KEY: folder / aqn[_KEY]}}


def written(value: Multipliers | None) -> list[float] | dict[str, float] | None:
    """As JSON has it: a list for every layer, or a mapping of some."""
    if value is None:
        return None
    pairs = [one for one in value if isinstance(one, tuple)]
    if pairs:
        return {str(layer): factor for layer, factor in pairs}
    return [one for one in value if not isinstance(one, tuple)]


def factors_of(value: Multipliers | None) -> dict[int, float]:
    """Factor by layer; a layer that is not in it has 1."""
    data = written(value)
    if isinstance(data, dict):
        return {int(layer): factor for layer, factor in data.items()}
    return dict(enumerate(data or ()))
