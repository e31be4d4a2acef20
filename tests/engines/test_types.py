"""What the package says of the engines' own types, against the engines that are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
pytest.importorskip("vllm")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]


@pytest.mark.engine
def test_the_types_of_the_installed_engines_are_those_that_are_written_down() -> None:
    """Also that they are there: mypy would take a name that it does not find for `Any`."""
    command = [sys.executable, "-m", "mypy", "-p", "hetero_plugin.vllm", "-p", "hetero_plugin.hf"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
