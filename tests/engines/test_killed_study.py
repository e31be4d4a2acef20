"""A study that is killed at every stage, and started again, ends as one that never was killed.

Both are arms of one study on E8c's settings (GRPO with a KL loss and a reference policy; forward
error, AQN by epoch): the same specification and seed, three steps of a tiny Qwen2 in real verl, and
a checkpoint after each. `whole` goes through; of `killed` SIGKILL ends

* the runner, while the script warms the model up from which both start;
* the actor, a worker of Ray, after the first step; the driver, when the second is saved;
* the runner, when the merged checkpoint is written and not yet in its place;
* the process that evaluates, after the first of its five passes;
* the runner, between two files of the report.

Each time the same command goes on. 9 min beside other tests, of which each start of verl takes one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from hetero_plugin.study import summary
from hetero_plugin.verl.metrics import attempts, read_metrics
from tests.engines.verl_run import RUNS

pytestmark = [*RUNS, pytest.mark.timeout(1500)]

RECIPES = Path(__file__).parents[2] / "recipes"
STEPS = 3
ARM = {"about": "E8c's step-text", "noise": {"spec": "E8c.yaml", "resample": "step"}}
MADE = {
    "digits": 2, "n_train": 64, "n_dev": 50, "n_test": 50, "layers": 2, "hidden": 64,
    "intermediate": 128, "heads": 2, "kv_heads": 1, "stop_at": 0.02, "highest": 0.99,
}  # fmt: skip
# As the command line does it; a file that is about to be put in its place, under a name that
# matches, is the end of it, with all that it had open and locked.
RUNNER = """
import os, re, signal, sys
fatal = re.compile(sys.argv.pop(1))

def audit(event, arguments):
    if event == "os.rename" and fatal.search(os.fspath(arguments[1])):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(audit)
from hetero_plugin.cli import app
app()
"""
NEVER = "(?!)"


def study(folder: Path) -> Path:
    """The study's file, in a folder that all its own are in."""
    made = folder / "start"
    place = {
        "steps": STEPS,
        "prepare": {
            "script": str(RECIPES / "miniature" / "make.py"),
            "folder": str(made),
            "options": MADE,
        },
        "model": {"path": str(made / "model")},
        "data": {
            name: str(made / f"{file}.parquet")
            for name, file in {"train": "train", "val": "dev", "test": "test"}.items()
        },
        "evaluation": {"questions": 16, "engine": {"enforce_eager": True}},
        "trainer": {
            "actor_rollout_ref.actor.optim.lr": 1e-3,  # a step has to show
            "actor_rollout_ref.actor.entropy_coeff": 0.01,  # where no answer earns anything
            "actor_rollout_ref.rollout.enforce_eager": True,
        },
    }
    (folder / "E8c.yaml").write_bytes((RECIPES / "specs" / "E8c.yaml").read_bytes())
    path = folder / "killed.yaml"
    content = {
        "base": str(RECIPES / "studies" / "E8c.yaml"),
        "name": "killed",
        "about": "one arm twice",
        "seeds": [0],
        "resume_every": 1,
        "arms": {"whole": ARM, "killed": ARM},
        "evaluation": {"contrasts": [["whole", "killed"]]},
        "output": str(folder / "runs"),
        "places": {"cpu-miniature": place},
    }
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


Moment = Callable[[], bool]
"""Whether it is time to kill."""


@dataclass
class Attempts:
    """The study, started again and again by one command."""

    folder: Path
    said: list[str] = field(default_factory=list)
    """What each attempt told."""

    def run(
        self, *, at: Moment | None = None, kill: str = "", itself: str = NEVER
    ) -> tuple[int, list[psutil.Process]]:
        """Starts it, and waits until it has ended.

        Args:
            at: when to kill.
            kill: the process, of those that the attempt has started, whose command line begins so;
                none: the runner.
            itself: the file at whose renaming the runner kills itself.

        Returns:
            The exit status, and what ran when it was killed.
        """
        words = ["study", "run", str(self.folder / "killed.yaml"), "--where", "cpu-miniature"]
        words += ["--arm", "whole", "--arm", "killed"]
        out = self.folder / f"attempt-{len(self.said) + 1}.log"
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "RAY_TMPDIR": str(self.folder / "ray"),
        }
        with out.open("wb") as log:
            runner = subprocess.Popen(
                [sys.executable, "-c", RUNNER, itself, *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=environment,
            )
        seen, polls = dict[int, psutil.Process](), 0
        try:
            while runner.poll() is None:
                polls += 1
                if itself != NEVER and polls % 100 == 0:  # nobody says when that will be
                    seen |= {one.pid: one for one in descendants(runner)}
                if at is not None and at():
                    seen = {one.pid: one for one in descendants(runner)}
                    chosen = [p for p in seen.values() if command(p).startswith(kill)]
                    assert len(chosen) == 1 or not kill, [command(p)[:80] for p in seen.values()]
                    chosen[0].kill() if kill else runner.kill()
                    at = None
                time.sleep(0.02)
        finally:
            runner.kill()
            self.said.append(out.read_text(encoding="utf-8", errors="replace"))
        assert at is None, self.said[-1]
        return runner.wait(), list(seen.values())


def descendants(runner: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(runner.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def command(process: psutil.Process) -> str:
    """Its words, from the module on where Python runs one."""
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
    return " ".join(words[1:] if words[1:2] == ["-m"] else words)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all have ended, within a minute; a zombie has, whoever reaps it."""
    _, alive = psutil.wait_procs(processes, timeout=60)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@dataclass
class Killed:
    """What the attempts left."""

    attempts: Attempts
    status: list[int]
    stayed: list[str]
    """Attempts of which a process was still there."""
    finished: dict[Path, int]
    """The stages of `whole`, when `killed` began: record, and when it was written."""

    def of(self, arm: str) -> Path:
        return self.attempts.folder / "runs" / "killed" / "miniature" / arm / "seed-0"


@pytest.fixture(scope="module")
def study_killed() -> Iterator[Killed]:
    # Ray's sockets lie below it, and a socket's path has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="killed-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        study(folder)
        yield killed_at_every_stage(folder)


def plan(folder: Path) -> list[dict[str, Any]]:
    """The attempts in turn: arguments of `Attempts.run`."""
    run = folder / "runs" / "killed" / "miniature" / "killed" / "seed-0"
    tracker = run / "checkpoints" / "latest_checkpointed_iteration.txt"
    answers = run / f"eval-step{STEPS}-linear.json"

    def warms_up() -> bool:
        log = folder / "start" / "prepare.log"
        return log.is_file() and "@progress" in log.read_text()

    def one_step() -> bool:
        return bool(read_metrics(run / summary.METRICS))

    def two_saved() -> bool:
        return tracker.is_file() and tracker.read_text() == "2"

    def answers_once() -> bool:
        return answers.is_file() and bool(json.loads(answers.read_text()).get("levels"))

    return [
        {"at": warms_up},
        {"at": one_step, "kill": "ray::WorkerDict"},
        {"at": two_saved, "kill": "-m verl.trainer.main_ppo"},
        {"itself": rf"/model-step{STEPS}$"},
        {"at": answers_once, "kill": "-m hetero_plugin.study.evaluate_child"},
        {"itself": r"/report\.html$"},
        {},
    ]


def killed_at_every_stage(folder: Path) -> Killed:
    tried, status, stayed, finished = Attempts(folder), list[int](), list[str](), {}
    for number, how in enumerate(plan(folder), start=1):
        code, ran = tried.run(**how)
        status.append(code)
        if not gone(ran):
            stayed.append(f"attempt {number}: {how}")
        if number == 2:
            finished = records(folder)
    return Killed(tried, status, stayed, finished)


def records(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.json") if "done" in p.name}


def test_the_last_attempt_completes_it(study_killed: Killed) -> None:
    # Of a runner that was killed: its signal. Of one that lost what it waited for: 1.
    assert study_killed.status == [-9, 1, 1, -9, 1, -9, 0], study_killed.attempts.said
    said = study_killed.attempts.said[-1]
    assert said.count("already finished") == 7 and "took" not in said, said


def test_no_process_of_a_killed_attempt_stays(study_killed: Killed) -> None:
    assert not study_killed.stayed


def test_what_was_finished_is_not_made_again(study_killed: Killed) -> None:
    finished = study_killed.finished
    assert len(finished) == 3 and all(p.parent == study_killed.of("whole") for p in finished)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    told = [said.count("already finished") for said in study_killed.attempts.said]
    # What is prepared and the three stages of `whole`; then those of `killed` one by one.
    assert told == [0, 0, 4, 4, 5, 6, 7]
    lines = [line for said in study_killed.attempts.said for line in said.splitlines()]
    took = [line for line in lines if "whole/seed-0" in line and ": took " in line]
    assert len(took) == 3, took


# What differs from run to run and is no result: time, memory, and the digits in which two engines,
# or one with other requests beside, round otherwise.
MEASURED = re.compile(
    r"timing_|perf/|actor/perf/|training/rollout_|rollout_corr/|hetero/rollout_actor_|"
    r"hetero/rollout/realised"
)


def test_every_step_is_that_of_the_run_that_went_through(study_killed: Killed) -> None:
    whole, killed = (summary.metrics_of(study_killed.of(arm)) for arm in ("whole", "killed"))
    assert list(whole) == list(killed) == [1, 2, 3]
    for step, data in whole.items():
        results = {name: value for name, value in data.items() if not MEASURED.match(name)}
        assert {"actor/kl_loss", "actor/grad_norm", "critic/rewards/mean"} <= set(results)
        assert {name: killed[step].get(name) for name in results} == results
        name = "hetero/rollout_actor_logprob_gap/mean"
        assert killed[step][name] == pytest.approx(data[name], rel=0.01)
    begun = [
        [json.loads(line)["step"] for line in path.read_text().splitlines()]
        for path in attempts(study_killed.of("killed") / summary.METRICS)
    ]
    # The actor was killed in the second step. The driver was when the second was saved, and its
    # metrics may have been written still, or not: each attempt goes on after what was.
    assert [step for steps in begun for step in steps] == [1, 2, 3]
    assert len(begun) > 1 and len(begun[-1]) < 3


def test_weights_and_answers_are_those_of_the_run_that_went_through(study_killed: Killed) -> None:
    import torch
    from safetensors.torch import load_file

    whole, killed = (study_killed.of(arm) for arm in ("whole", "killed"))
    before, one, two = (
        load_file(folder / "model.safetensors")
        for folder in (
            study_killed.attempts.folder / "start" / "model",
            whole / f"model-step{STEPS}",
            killed / f"model-step{STEPS}",
        )
    )
    assert one.keys() == two.keys() == before.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], before[name]) for name in one)
    one, two = (
        json.loads((folder / f"eval-step{STEPS}-linear.json").read_text())
        for folder in (whole, killed)
    )
    assert len(two["sessions"]) == 2, "the second went on"
    answers = [
        [row["texts"] for row in (*document["levels"], *document["draws"])]
        for document in (one, two)
    ]
    assert len(answers[0]) == 5 and answers[0] == answers[1]


def test_the_report_is_attested_and_finds_no_difference(study_killed: Killed) -> None:
    folder = study_killed.of("killed").parents[1]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["status"] == "ATTESTED"
    [panel] = report["panels"]
    assert set(panel["accuracy"]) == {"whole", "killed"}
    assert [row["value"] for row in panel["contrasts"]] == [0.0, 0.0, 0.0]
    for arm in ("whole", "killed"):
        data = json.loads((study_killed.of(arm) / "summary.json").read_text(encoding="utf-8"))
        passed = [(one["when"], one["step"]) for one in data["attested"] if one["passed"]]
        assert len(passed) == len(data["attested"]) == (2 if arm == "whole" else 4)
        starts = sorted(step for when, step in passed if when == "start")
        assert ("end", STEPS) in passed and starts[0] == 0 and all(starts[1:])
    page = json.loads((folder / "seed-0.json").read_text(encoding="utf-8"))
    assert page["attestation"]["killed"]["passed"]


def test_what_both_start_from_is_what_the_script_makes(
    study_killed: Killed, tmp_path: Path
) -> None:
    words = [
        word for key, value in MADE.items() for word in (f"--{key.replace('_', '-')}", str(value))
    ]
    script = str(RECIPES / "miniature" / "make.py")
    subprocess.run([sys.executable, script, "--out", str(tmp_path), *words], check=True)
    for name in ("model/model.safetensors", "train.parquet", "dev.parquet", "test.parquet"):
        made = study_killed.attempts.folder / "start" / name
        assert made.read_bytes() == (tmp_path / name).read_bytes(), name
