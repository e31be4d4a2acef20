"""The JSON schema of a specification as a person may write it: for editors and other programs."""

from __future__ import annotations

from typing import Any

from hetero_plugin.config import ERROR_MODELS, PRESETS, NoiseConfig
from hetero_plugin.config.error_models import BLENDS
from hetero_plugin.config.rule import NoiseRule

__all__ = ["json_schema"]

# YAML reads 5e-2 as text, and the parser takes it for the number that it is.
_AS_TEXT = {"type": "string", "pattern": r"^\s*\+?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"}
_BOUNDS = {"ge": "minimum", "le": "maximum", "lt": "exclusiveMaximum"}
_FACTOR = {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 1000}, _AS_TEXT]}
_LISTS = ("targets", "exclude", "layers")


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of what `NoiseConfig.parse` takes as a mapping.

    The parser knows more: names that a model does not have, keys that a schedule does not read.
    What the schema refuses the parser refuses too.
    """
    schema = NoiseConfig.model_json_schema()
    definitions = schema["$defs"]
    rule, aqn = definitions["NoiseRule"], definitions["AQNConfig"]
    rule["properties"]["error"]["enum"] = list(ERROR_MODELS)
    # A number format, or another blend, is whole where no scale is given.
    del rule["required"]
    rule["if"] = {"properties": {"error": {"enum": list(BLENDS)}}, "required": ["error"]}
    rule["else"] = {"required": ["scale"]}
    for part in (rule, aqn):
        for name, field in part["properties"].items():
            _widen(name, field)
    aqn["properties"]["multipliers"] |= {
        "anyOf": [
            {"type": "array", "items": _FACTOR, "minItems": 1},
            {"type": "object", "additionalProperties": _FACTOR, "minProperties": 1},
            {"type": "string", "description": "path of a file"},
            {"type": "null"},
        ]
    }
    # One rule may be written flat, alone or as a change to a preset, but not beside `rules`.
    flat = {name: dict(field) for name, field in rule["properties"].items()}
    for field in flat.values():
        field.pop("default", None)  # beside a preset what is left out is the preset's
    schema["properties"] |= {
        "preset": {
            "enum": [*PRESETS, None],
            "description": "instead of `rules`",
        },
        **flat,
    }
    schema["properties"]["rules"]["type"] = ["array", "null"]
    alone = [{"required": [name]} for name in ("preset", *NoiseRule.model_fields)]
    schema["if"] = {"properties": {"rules": {"type": "array"}}, "required": ["rules"]}
    schema["then"] = {"not": {"anyOf": alone}}
    whole: dict[str, Any] = _standard(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole}


def _standard(part: Any) -> Any:
    """Bounds that pydantic leaves under its own names, under those of JSON schema."""
    if isinstance(part, list):
        return [_standard(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {_BOUNDS.get(key, key): _standard(value) for key, value in part.items()}


def _widen(name: str, field: dict[str, Any]) -> None:
    """What else the parser takes for a field: a word for a list of one, a number as text."""
    if name in _LISTS:
        choices = field.pop("anyOf", None) or [{k: field.pop(k) for k in ("type", "items")}]
        words = [{"type": "string"}] + [{"type": "integer"}] * (name == "layers")
        field["anyOf"] = [*choices, *words]
    elif field.get("type") == "number":
        del field["type"]
        field["anyOf"] = [{"type": "number", "minimum": 0}, _AS_TEXT]
    elif any(choice.get("type") == "number" for choice in field.get("anyOf", ())):
        field["anyOf"] = [
            {"type": "number", "minimum": 0} if choice.get("type") == "number" else choice
            for choice in field["anyOf"]
        ] + [_AS_TEXT]
