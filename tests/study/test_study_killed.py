"""A study's runner, killed before anything that it does to a file, completes when started again.

Stages are stood in for by functions that write as they do. 13 s of CPU time: a hundred times two
attempts, each a copy of this process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from hetero_plugin.evaluation.files import write_json
from hetero_plugin.study import read, run, stages, summary
from hetero_plugin.study.resolve import Resolved, resolve_all
from hetero_plugin.study.schema import Preparation
from hetero_plugin.study.stages import Outcome
from hetero_plugin.verl.kept import new_folder
from tests.study.test_study_run import Watcher

STUDY = """
name: it
about: a test
model: {path: %(folder)s/made/model, size: tiny}
data: {train: %(folder)s/made/train.parquet, val: %(folder)s/made/val.parquet}
steps: 2
seeds: [0]
output: %(folder)s/runs
trainer: {data.train_batch_size: 8}
where: node
places: {node: {gpus: 2, prepare: {script: make.py, folder: %(folder)s/made}}}
arms:
  clean: {about: clean, noise: null}
  noise: {about: noise, noise: linear}
"""
DONE = {
    f"runs/it/tiny/{arm}/seed-0/{stage}.done.json"
    for arm in ("clean", "noise")
    for stage in ("train", "merge-step2", "eval-step2")
}
CHANGES = {"os.rename": 1, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0}
"""Events of Python that change a folder: which of their arguments is the path."""


def kill_before(number: int, folder: Path) -> None:
    """Ends this process before its ``number``-th change of a file in a folder."""
    seen = 0

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open":
            path = arguments[0] if arguments[2] & (os.O_WRONLY | os.O_RDWR) else None
        else:
            path = arguments[CHANGES[event]] if event in CHANGES else None
        if path is not None and str(path).startswith(str(folder)):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def attempt(study: Path, folder: Path, number: int | None) -> int:
    """The study in a copy of this process; its exit status. None: it is not killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if number is not None:
                kill_before(number, folder)
            run.execute(resolve_all(read(study)), Watcher())
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def stand_in(monkeypatch: pytest.MonkeyPatch, told: Path) -> None:
    """Stages that write what theirs write, and tell that they ran."""

    def tell(*words: str) -> None:
        with told.open("a") as out:
            out.write(" ".join(words) + "\n")

    def prepare(made: Preparation, report: Any) -> Outcome:
        tell("prepare")
        (made.folder / "model").mkdir(exist_ok=True)
        (made.folder / "model" / "weights").write_text("0")
        return Outcome({}, stages.files_of(made.folder))

    def train(one: Resolved, report: Any) -> Outcome:
        tell("train", one.arm)
        started = (one.folder.parents[4] / "made" / "model" / "weights").read_text()
        (one.folder / "checkpoints").mkdir(exist_ok=True)
        (one.folder / "checkpoints" / "weights").write_text(f"{started} {one.arm}")
        write_json(one.folder / summary.NAME, {"arm": one.arm})
        return Outcome({}, (one.folder / summary.NAME,))

    def merge(one: Resolved, step: int, report: Any) -> Outcome:
        tell("merge", one.arm)
        trained = one.folder / "checkpoints" / "weights"
        with new_folder(one.model_at(step), [trained]) as partial:
            (partial / "weights").write_text(f"{trained.read_text()} merged")
        return Outcome({}, stages.files_of(one.model_at(step)))

    def evaluate(one: Resolved, step: int, report: Any) -> Outcome:
        tell("evaluate", one.arm)
        path = one.evaluated_at(step, "linear")
        write_json(path, {"of": (one.model_at(step) / "weights").read_text()})
        return Outcome({}, (path,))

    for made in (prepare, train, merge, evaluate):
        monkeypatch.setattr(stages, made.__name__, made)
    for name in ("check", "check_here"):
        monkeypatch.setattr(run, name, lambda _: {})


def left(folder: Path) -> dict[str, Any]:
    """What is in a folder: contents by name, but for times and what begins with a dot."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or "/." in f"/{name}":
            continue
        text = path.read_text(encoding="utf-8")
        found[name] = json.loads(text) if path.suffix == ".json" else text
        if isinstance(found[name], dict):
            found[name] = {k: v for k, v in found[name].items() if k not in ("finished", "seconds")}
    return found


def test_a_runner_killed_anywhere_completes_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told, study = tmp_path / "all", tmp_path / "told", tmp_path / "it.yaml"
    study.write_text(STUDY % {"folder": folder})
    (tmp_path / "make.py").touch()
    stand_in(monkeypatch, told)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # what is for a machine that loses its power
    assert attempt(study, folder, None) == 0
    whole, everything = left(folder), told.read_text().splitlines()
    assert len(everything) == 7 and {"made/prepared.json", *DONE} <= set(whole)
    number = 0
    while True:
        number += 1
        shutil.rmtree(folder)
        if (status := attempt(study, folder, number)) == 0:
            break
        assert status == -signal.SIGKILL
        finished = {path: path.stat().st_mtime_ns for path in folder.rglob("*.done.json")}
        told.write_text("")
        assert attempt(study, folder, None) == 0, f"killed before change {number}"
        assert left(folder) == whole, f"killed before change {number}"
        assert {path: path.stat().st_mtime_ns for path in finished} == finished
        made = [line for line in told.read_text().splitlines() if line != "prepare"]
        assert len(made) == len(DONE) - len(finished), f"killed before change {number}"
    assert number > 60, "so many changes are made"
