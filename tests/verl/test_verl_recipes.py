"""The recipes name what they mean: valid specifications, the experiments' site counts and steps."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.sites import select, sites_from_config
from hetero_plugin.verl.__main__ import main, read_settings
from hetero_plugin.verl.launch import MiniatureRun

RECIPES = Path(__file__).parents[2] / "recipes"
SHAPE: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "num_hidden_layers": 28,
    "vocab_size": 151936,
}
# All others: the 197 linear sites.
SITES = {"E2": 57, "E3b": 254, "E5c": 310, "E5d": 310}


@pytest.mark.parametrize("path", sorted((RECIPES / "specs").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_specification_selects_the_experiments_sites(path: Path) -> None:
    spec = NoiseConfig.parse(path)
    assert len(select(spec, sites_from_config(SHAPE))) == SITES.get(path.stem, 197)


def test_the_schedules_have_the_experiments_length() -> None:
    def sigma(name: str, step: int) -> float:
        spec = NoiseConfig.parse(RECIPES / "specs" / f"{name}.yaml")
        assert spec.aqn is not None
        return spec.aqn.sigma(step)

    assert (sigma("E5a", 0), sigma("E5a", 12), sigma("E5a", 115)) == (0.0, 0.05, 0.0005)
    assert sigma("E5b", 57) == pytest.approx(0.01) and sigma("E5b", 58) == 0.0
    assert sigma("E7c", 231) == pytest.approx(0.0005)


@pytest.mark.parametrize("script", sorted(RECIPES.glob("*.sh")), ids=lambda p: p.name)
def test_a_script_is_valid_shell_and_executable(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert script.stat().st_mode & 0o100


@pytest.mark.parametrize(
    "path", sorted((RECIPES / "miniature").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_miniatures_settings_are_valid(path: Path, tmp_path: Path) -> None:
    paths = {"model": tmp_path, "train_files": tmp_path, "val_files": tmp_path, "output": tmp_path}
    run = MiniatureRun(**read_settings(path), **paths)
    assert run.name == path.stem
    assert (run.noise is None) == (path.stem == "clean")
    if run.noise is not None and run.noise.aqn is not None:
        assert run.noise.aqn.sigma(run.steps - 1) == pytest.approx(0.0005)  # its last stage


def test_bad_settings_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "s.yaml"
    paths = [f"--{name}={tmp_path}" for name in ("model", "train", "val", "output")]
    for text, message in (
        ("steps: 0", "steps"),
        ("- 1", "mapping of settings"),
        (json.dumps({"steps": 1, "noise": {"scale": -1}}), "noise"),
    ):
        settings.write_text(text)
        assert main([str(settings), *paths]) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="can't be read"):
        read_settings(tmp_path / "none.yaml")
