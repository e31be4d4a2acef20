"""Every rank of TRL's colocated engine is asked: two training processes, one of them spoiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm")

pytestmark = pytest.mark.engine  # two processes in a group

ROOT = Path(__file__).parents[2]
CASES = {
    "fine": "",
    "clean": "of 2 ranks, 1 answered otherwise",
    "deaf": "of 2 ranks, 1 answered otherwise",
    "other draw": '["tensors", "another"]',
    "still noisy": '["enabled", true]',
    "raises": "training process 1: RuntimeError: the worker of rank 1 fell over",
}


@pytest.fixture(scope="module")
def answers() -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "tests/trl/ranks.py", *CASES],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", list(CASES))
def test_both_processes_say_what_is_wrong_at_one_rank(
    answers: dict[str, list[str]], case: str
) -> None:
    """Neither goes on alone, which would leave it waiting for the other in a collective call."""
    first, second = answers[case]
    assert first == second
    if case == "fine":
        assert first == "fine"
    else:
        assert first.startswith("RanksDisagree") and CASES[case] in first
