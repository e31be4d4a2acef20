"""One arm of the demo for real: prepared, trained by verl, merged, evaluated by vLLM, reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_plugin.study.read import noise_of, read
from hetero_plugin.study.saying import check_log, noisy_processes

pytest.importorskip("verl")
pytest.importorskip("vllm")

_ARM = "noise_aqn"
_STUDY = Path(__file__).parents[2] / "recipes" / "studies" / "demo.yaml"
_CHANGES = ("places.cpu.prepare.folder={0}/start", "model.path={0}/start/model", "output={0}/runs")


def _study(here: Path, action: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["study", action, str(_STUDY), "--arm", _ARM, *more]
    changes = [change.format(here) for change in _CHANGES]
    changes += [f"data.{name}={here}/start/{file}.parquet" for name, file in _DATA.items()]
    for change in (*changes, "evaluation.questions=64"):
        words += ["--set", change]
    return subprocess.run(
        [sys.executable, "-c", "from hetero_plugin.cli import app; app()", *words],
        capture_output=True,
        text=True,
        cwd=here,
        env={**os.environ, "XDG_CACHE_HOME": str(here / "cache")},  # not another checkout's
        timeout=1500,
    )


_DATA = {"train": "train", "val": "dev", "test": "test"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    here = tmp_path_factory.mktemp("demo")
    done = _study(here, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    return here, done.stdout


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestDemo:
    def test_the_last_line_is_the_report(self, finished: tuple[Path, str]) -> None:
        here, printed = finished
        wanted = [f"runs/demo/miniature/report.{end}" for end in ("json", "html")]
        assert printed.splitlines()[-2:] == wanted
        for name in ("report", "seed-0"):
            page = (here / "runs/demo/miniature" / f"{name}.html").read_text(encoding="utf-8")
            assert "<svg" in page and 'src="http' not in page

    def test_the_report_carries_its_attestation(self, finished: tuple[Path, str]) -> None:
        folder = finished[0] / "runs/demo/miniature"
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        assert report["status"] == "ATTESTED" and list(report["panels"][0]["accuracy"]) == [_ARM]
        assert report["panels"][0]["levels"] == [0.0, 0.05, 0.1] and report["panels"][0]["n"] == 64
        assert len(report["missing"]) == 2, "the other arms are named"
        page = json.loads((folder / "seed-0.json").read_text(encoding="utf-8"))
        attestation = page["attestation"][_ARM]
        assert attestation["passed"] and attestation["seen"] == attestation["of"] == 28

    def test_actor_and_engine_worker_said_what_they_do(self, finished: tuple[Path, str]) -> None:
        noise = noise_of(read(_STUDY), _ARM, 0)
        assert noise is not None
        log = finished[0] / "runs/demo/miniature" / _ARM / "seed-0" / "train.log"
        said = check_log(log, noise)
        assert [line["sites"] for line in said] == [28] * len(said) and len(said) >= 2
        # The same lines in a clean arm would be an error, and the other arm's spec another.
        assert noisy_processes(log.read_text(encoding="utf-8", errors="replace"))

    def test_training_followed_the_schedule(self, finished: tuple[Path, str]) -> None:
        log = finished[0] / "runs/demo/miniature" / _ARM / "seed-0" / "metrics.jsonl"
        rows = {row["step"]: row["data"] for row in map(json.loads, log.read_text().splitlines())}
        noise = noise_of(read(_STUDY), _ARM, 0)
        assert noise is not None and noise.aqn is not None
        for step in range(1, 13):
            assert rows[step]["hetero/sigma"] == pytest.approx(noise.aqn.sigma(step - 1), rel=1e-6)

    def test_again_it_takes_over_every_finished_stage(self, finished: tuple[Path, str]) -> None:
        again = _study(finished[0], "run")
        assert again.returncode == 0, again.stderr
        assert again.stderr.count("already finished") == 4 and "took" not in again.stderr

    def test_other_settings_are_refused_and_change_nothing(
        self, finished: tuple[Path, str]
    ) -> None:
        here, _ = finished
        before = {p: p.stat().st_mtime_ns for p in here.rglob("*") if p.is_file()}
        other = _study(here, "run", "--set", "trainer.actor_rollout_ref.actor.optim.lr=1.0e-5")
        assert other.returncode == 2
        assert "settings.actor_rollout_ref.actor.optim.lr: 0.0001 there, 1e-05 here" in other.stderr
        assert {p: p.stat().st_mtime_ns for p in before} == before
