"""``--model`` as a name on the hub, from the hub's own cache: nothing is downloaded here."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
from typer.testing import CliRunner

from hetero_plugin.cli import app
from hetero_plugin.cli.checkpoint import fetched
from hetero_plugin.config import ConfigError

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 256,
}
COMMIT = "0" * 39 + "1"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as the hub's library lays it out, and no network."""
    model = tmp_path / "hub" / "models--Some--Tiny-2.5"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    (model / "snapshots" / COMMIT).mkdir(parents=True)
    (model / "snapshots" / COMMIT / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return model / "snapshots" / COMMIT


def test_plan_takes_a_name_on_the_hub(cache: Path) -> None:
    result = CliRunner().invoke(app, ["plan", "--model", "Some/Tiny-2.5", "--preset", "linear"])
    assert result.exit_code == 0, result.stderr
    assert "total: 15 of" in result.stdout


def test_a_whole_checkpoint_is_its_folder_in_the_cache(cache: Path) -> None:
    assert fetched("Some/Tiny-2.5") == cache
    assert fetched("Some/Tiny-2.5", weights=False) == cache / "config.json"


def test_what_the_hub_does_not_give_is_one_sentence(cache: Path) -> None:
    result = CliRunner().invoke(app, ["plan", "--model", "Some/Other"])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert "--model Some/Other: there is no such folder on this machine, and" in result.stderr


@pytest.mark.parametrize("given", ["nowhere", "/a/b", "./a/b", "../model", "a/b/c", "", "a b/c"])
def test_what_is_no_name_on_the_hub_is_left_as_it_is(cache: Path, given: str) -> None:
    assert fetched(given) == Path(given)


def test_a_folder_goes_before_the_hub(cache: Path) -> None:
    Path("Some/Tiny-2.5").mkdir(parents=True)
    assert fetched("Some/Tiny-2.5") == Path("Some/Tiny-2.5")
    # A mistyped folder beside others is no name on the hub either.
    assert fetched("Some/Tiny-2.6") == Path("Some/Tiny-2.6")


def test_the_error_is_the_users(cache: Path) -> None:
    with pytest.raises(ConfigError, match="could not be downloaded"):
        fetched("Some/Other")
