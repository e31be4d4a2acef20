"""The JSON schema: it takes what the parser takes, and refuses nothing else's words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from hetero_plugin.cli import app
from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.config.multipliers import beside
from hetero_plugin.config.schema import json_schema

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text()
VALIDATOR = jsonschema.Draft202012Validator(json_schema())
GOOD: list[Any] = [
    *(yaml.safe_load(path.read_text()) for path in sorted((ROOT / "recipes/specs").glob("*.yaml"))),
    *(yaml.safe_load(text) for text in re.findall(r"```(?:yaml|json)\n(.*?)```", PAGE, re.DOTALL)),
    {"scale": "5e-2"},  # as YAML reads it
    {"scale": 0.1, "targets": "norm", "layers": 3},
    {"scale": 0.1, "layers": "2-5"},
    {"preset": "all", "scale": 0},
    {"error": "mxfp4", "point": "weight"},
    {"rules": [{"error": "mxfp4", "point": "input"}]},
    {"preset": "hif4-w4a4", "seed": 3},
    {"preset": "all", "rules": None},
    {"rules": [], "aqn": {"sigma_start": "1e-2", "total_steps": 20}},
    {
        "rules": [],
        "aqn": {"total_steps": 20, "layers": "3-5", "multipliers": {"3-4": 1.5, "5": "2"}},
    },
    {"rules": [], "aqn": {"total_steps": 20, "layers": 3, "multipliers": [1, "1.5"]}},
    {},
]
BAD: list[Any] = [
    {"scal": 0.05},
    {"scale": -1},
    {"scale": "five"},
    {"preset": "qerl"},
    {"scale": 1, "error": "gaussian"},
    {"scale": 1, "point": "outputs"},
    {"scale": 1, "seed": -1},
    {"scale": 1, "layers": 1.5},
    {"rules": [{"targets": ["norm"]}]},
    {"rules": [{"error": "deadzone"}]},
    {"rules": [{"scale": 1, "kind": "norm"}]},
    {"rules": [{"scale": 1}], "preset": "all"},
    {"rules": [{"scale": 1}], "scale": 2},
    {"rules": [], "aqn": {"stages": 0}},
    {"rules": [], "aqn": {"multipliers": [0]}},
    {"rules": [], "aqn": {"multipliers": {}}},
    {"rules": [], "aqn": {"schedule": "exponential"}},
]


def test_the_command_prints_it() -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json_schema()
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("spec", GOOD, ids=str)
def test_what_the_parser_takes(spec: Any) -> None:
    # A path of factors is from the specification's file, as the parser has it there.
    NoiseConfig.parse(beside(spec, ROOT / "recipes" / "specs"))
    VALIDATOR.validate(spec)


@pytest.mark.parametrize("spec", BAD, ids=str)
def test_what_neither_takes(spec: Any) -> None:
    with pytest.raises(ConfigError):
        NoiseConfig.parse(spec)
    assert not VALIDATOR.is_valid(spec)


def test_every_field_is_described() -> None:
    schema = json_schema()
    for part in (schema, *schema["$defs"].values()):
        for name, field in part["properties"].items():
            assert field.get("description"), name


def test_a_reports_schema_is_printed_and_closed() -> None:
    result = CliRunner().invoke(app, ["schema", "report"])
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert {"comparisons", "floors", "arms", "attestation"} <= set(schema["required"])
    refused = CliRunner().invoke(app, ["schema", "reports"])
    assert refused.exit_code == 2 and "spec" in refused.output
