"""`hetero-noise demo` on the command line: what is wrong is said before anything runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def _demo(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = "from hetero_plugin.cli import app; app()"
    return subprocess.run(
        [sys.executable, "-c", code, "demo", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
    )


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
    tmp_path: Path, words: list[str], said: str
) -> None:
    done = _demo(*words, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    done = _demo("--out", "out", cwd=tmp_path)
    assert done.returncode == 2 and "notes.txt" in done.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_help_names_every_option(tmp_path: Path) -> None:
    text = _demo("--help", cwd=tmp_path).stdout
    for option in ("--full", "--out", "--seed", "--model", "--train-file", "--test-file"):
        assert option in text
