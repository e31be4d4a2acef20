"""One arm of the demonstration for real: verl with Ray, vLLM and FSDP2, then evaluation, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_plugin.demo import settings
from hetero_plugin.demo.saying import check_log, noisy_processes

_ARM = "noise_aqn"


def _demo(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["demo", "--arms", _ARM, "--steps", "12", "--n-eval", "64", "--out", str(out), *more]
    code = "from hetero_plugin.cli import app; app()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        cwd=out.parent,
        env={**os.environ, "XDG_CACHE_HOME": str(out.parent / "cache")},  # not another checkout's
        timeout=1500,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo") / "run"
    done = _demo(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestRun:
    def test_the_last_line_is_the_report(self, finished: tuple[Path, str]) -> None:
        out, printed = finished
        assert printed.splitlines()[-2:] == ["run/report.json", "run/report.html"]
        page = (out / "report.html").read_text(encoding="utf-8")
        assert "<svg" in page and 'src="http' not in page

    def test_the_report_carries_its_attestation(self, finished: tuple[Path, str]) -> None:
        report = json.loads((finished[0] / "report.json").read_text(encoding="utf-8"))
        assert report["status"] == "ATTESTED" and list(report["arms"]) == [_ARM]
        assert report["levels"] == [0.0, 0.05, 0.1] and report["n"] == 64
        attestation = report["attestation"][_ARM]
        assert attestation["passed"] and attestation["seen"] == attestation["of"] == 28

    def test_actor_and_engine_worker_said_what_they_do(self, finished: tuple[Path, str]) -> None:
        noise = settings.short(grpo={"steps": 12}).noise(_ARM)
        assert noise is not None
        log = finished[0] / "arms" / _ARM / "train.log"
        said = check_log(log, noise)
        assert [line["sites"] for line in said] == [28] * len(said) and len(said) >= 2
        # The same lines in a clean arm would be an error, and the other arm's spec another.
        assert noisy_processes(log.read_text(encoding="utf-8", errors="replace"))

    def test_training_followed_the_schedule(self, finished: tuple[Path, str]) -> None:
        lines = (finished[0] / "arms" / _ARM / "metrics.jsonl").read_text().splitlines()
        rows = {row["step"]: row["data"] for row in map(json.loads, lines)}
        aqn = settings.short(grpo={"steps": 12}).aqn()
        for step in range(1, 13):
            assert rows[step]["hetero/sigma"] == pytest.approx(aqn.sigma(step - 1), rel=1e-6)

    def test_again_it_takes_over_every_finished_stage(self, finished: tuple[Path, str]) -> None:
        out, _ = finished
        before = (out / "report.json").read_bytes()
        again = _demo(out)
        assert again.returncode == 0, again.stderr
        assert again.stdout.count("already finished") == 6 and "took" not in again.stdout
        assert (out / "report.json").read_bytes() == before

    def test_other_settings_are_refused_and_change_nothing(
        self, finished: tuple[Path, str]
    ) -> None:
        out, _ = finished
        before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
        other = _demo(out, "--seed", "1")
        assert other.returncode == 2
        assert "holds another run (seed: 0 there, 1 here)" in other.stderr
        kept = {p: p.stat().st_mtime_ns for p in before}
        assert kept == before
