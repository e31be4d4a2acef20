"""`hetero-noise demo` on the command line: what is wrong is said before anything runs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import forked

Demo = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def demo(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The command, run in ``tmp_path``."""
    code = "from hetero_plugin.cli import app; app()"
    folder = tmp_path_factory.mktemp("said")
    return lambda *words: forked.python(code, "demo", *words, folder=folder, cwd=tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train-file", "a.jsonl", "--test-file", "b.jsonl"], "need model"),
        (["--steps", "13"], "does not divide into 2 AQN epochs"),
        (["--arms", "clean,loud"], "arms"),
        (["--learning-rate", "-1"], "grpo.learning_rate"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_setting_costs_a_second_and_is_named(
    tmp_path: Path, demo: Demo, words: list[str], said: str
) -> None:
    done = demo(*words)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, demo: Demo) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    done = demo("--out", "out")
    assert done.returncode == 2 and "notes.txt" in done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_help_names_every_option(demo: Demo) -> None:
    text = demo("--help").stdout
    for option in ("--full", "--out", "--seed", "--model", "--train-file", "--test-file"):
        assert option in text
