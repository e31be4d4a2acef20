"""`make gpu ARGS=--rehearse`, whole: every check that has a CPU form, at tiny size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from scripts.gpu.checks import CHECKS

pytestmark = [pytest.mark.engine, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(1500)
def test_what_can_be_rehearsed_passes_and_the_rest_says_why(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.gpu", "--rehearse", "--out", str(tmp_path)],
        cwd=ROOT,
        env={"OMP_NUM_THREADS": "1", **os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    logs = "".join(log.read_text()[-1500:] for log in sorted(tmp_path.glob("logs/*")))
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}\n{logs[-8000:]}"
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(found["checks"]) == {check.name for check in CHECKS}
    for check in CHECKS:
        record = found["checks"][check.name]
        if check.rehearsal:
            assert record["status"] == "not run" and check.rehearsal in record["reason"]
        else:
            assert record["status"] == "passed", (check.name, record)
            assert any(row["status"] == "passed" for row in record["findings"]), check.name
    # Without a GPU nothing passes: each line says what is missing.
    table = (tmp_path / "gpu.md").read_text()
    assert all(f"**{check.name}**" in table for check in CHECKS)
