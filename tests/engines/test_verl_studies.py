"""The studies' own regime, shrunk: two steps of a tiny Qwen2 in real verl, from command to report.

By verl's settings the arms of recipes/studies for GSM8K are of three groups: GRPO with a KL loss
and a reference policy, DAPO, and GRPO with rollout correction. One arm of each is run, of the first
in test_killed_study.py; the error of every other arm is attested in tests/study/test_study_arms.py.
2 min an arm.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_plugin.study.read import read
from hetero_plugin.study.resolve import resolve
from tests.engines.verl_run import RUNS

pytestmark = RUNS
FOLDER = Path(__file__).parents[2] / "recipes" / "studies"
ARMS = {
    "DAPO, formats in the backward pass too": ("dapo-formats", "nvfp4-training"),
    "rollout correction": ("remedies", "rejection"),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("group", ARMS)
def test_an_arm_of_each_group_trains(group: str, miniature: Path, tmp_path: Path) -> None:
    name, arm = ARMS[group]
    file = FOLDER / f"{name}.yaml"
    here = "places.cpu-miniature"
    changes = {
        f"{here}.prepare": "null",
        f"{here}.model.path": miniature / "model",
        f"{here}.data.train": miniature / "train.parquet",
        f"{here}.data.val": miniature / "test.parquet",
        f"{here}.data.test": miniature / "test.parquet",
        f"{here}.evaluation.questions": 16,
        f"{here}.trainer.data.max_prompt_length": 40,
        f"{here}.trainer.actor_rollout_ref.rollout.enforce_eager": "true",
        # Random weights earn nothing, and would not move.
        f"{here}.trainer.actor_rollout_ref.actor.entropy_coeff": 0.01,
        "output": tmp_path / "runs",
    }
    words = ["study", "run", str(file), "--where", "cpu-miniature", "--arm", arm, "--seed", "0"]
    for key, value in changes.items():
        words += ["--set", f"{key}={value}"]
    done = subprocess.run(
        [sys.executable, "-c", "from hetero_plugin.cli import app; app()", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = resolve(read(file, [f"output={tmp_path / 'runs'}"]), arm, 0, "cpu-miniature")
    summary = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["attested"], "before the first step and after the last"
    assert run.noise is not None and summary["asked"]["fingerprint"] == run.noise.fingerprint
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]["data"]
    assert rows[-1]["step"] == 2
    if group == "rollout correction":
        assert any("rollout_is" in key or "rollout_corr" in key for key in last)
