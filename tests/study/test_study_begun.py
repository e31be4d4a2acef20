"""A training that another way of sampling began is not gone on with; a finished one is. Seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hetero_plugin.config import ConfigError
from hetero_plugin.study import read, run, stages
from hetero_plugin.study.resolve import Resolved, resolve_all
from hetero_plugin.verl import begun
from hetero_plugin.verl.launch import LaunchError
from tests.study.test_study_run import Watcher, _leaves

STUDY = """
name: it
about: a test
model: {path: model, size: tiny}
data: {train: train.parquet, val: val.parquet}
steps: 2
seeds: [0, 1]
resume_every: 1
output: runs
trainer: {data.train_batch_size: 8}
where: here
places: {here: {device: cpu, gpus: 1}, node: {gpus: 1}}
arms: {clean: {about: clean, noise: null}}
"""
SEEDED, ALONE = f"# python {begun.SEEDED}\n", "# python -m verl\n"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Resolved]:
    """Two seeds of a clean arm on a CPU, of two steps with a checkpoint after each."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it.yaml").write_text(STUDY)
    for name in ("check", "check_here"):
        monkeypatch.setattr(run, name, lambda _: {})
    monkeypatch.setattr(run, "check_machine", lambda *_: None)
    for name in ("merge", "evaluate"):
        monkeypatch.setattr(stages, name, _leaves(name))
    return resolve_all(read(tmp_path / "it.yaml"))


def pretend(monkeypatch: pytest.MonkeyPatch, *, killed: bool) -> None:
    """In verl's place a program that takes two steps, or is killed after the first."""
    lines = [
        "import json, pathlib",
        "for step in (1, 2):",
        "    actor = pathlib.Path(f'checkpoints/global_step_{step}/actor')",
        "    actor.mkdir(parents=True, exist_ok=True)",
        "    (actor / 'model_world_size_1_rank_0.pt').touch()",
        "    (actor.parent / 'data.pt').touch()",
        "    pathlib.Path('checkpoints/latest_checkpointed_iteration.txt').write_text(str(step))",
        "    with open('metrics.jsonl', 'a') as out:",
        "        out.write(json.dumps({'step': step, 'data': {}}) + '\\n')",
        *(["    raise SystemExit(9)"] if killed else []),
    ]
    program = [sys.executable, "-c", "\n".join(lines), begun.SEEDED]
    monkeypatch.setattr("hetero_plugin.verl.launch.command", lambda _: program)


def half(one: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains half of it."""
    pretend(monkeypatch, killed=True)
    with pytest.raises(LaunchError, match="exit 9"):
        run.execute([one], Watcher())
    pretend(monkeypatch, killed=False)


def left(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize(
    ("note", "log"),
    [("same", SEEDED), ("none", SEEDED)],
    ids=["of this version", "of the version before notes"],
)
def test_a_training_of_the_same_way_goes_on(
    runs: list[Resolved], monkeypatch: pytest.MonkeyPatch, note: str, log: str
) -> None:
    half(runs[0], monkeypatch)
    path = runs[0].folder / begun.RECORD
    assert json.loads(path.read_text()) == {"sampling": begun.SAMPLING}
    if note == "none":
        path.unlink()
    (runs[0].folder / "train.log").write_text(log)
    run.execute(runs[:1], Watcher())
    assert run.status(runs[0]) == "finished"
    assert json.loads(path.read_text()) == {"sampling": begun.SAMPLING}


@pytest.mark.parametrize(
    ("note", "logs", "words"),
    [
        ('{"sampling": 2}', [SEEDED], "sampled by way no. 2"),
        ('{"sampling": null}', [SEEDED], "sampled by the engine's own stream"),
        (None, [ALONE], "sampled by the engine's own stream"),
        (None, [ALONE, SEEDED], "sampled by two ways in turn, by its logs"),
        (None, [], "neither a note nor a log of it"),
        ('{"samp', [SEEDED], r"a way that is not known, as .*sampling\.json can't be read"),
        ("[1]", [SEEDED], "can't be read"),
        ('{"sampling": true}', [SEEDED], "can't be read"),
    ],
)
def test_a_training_of_another_way_is_refused_by_name(
    runs: list[Resolved],
    monkeypatch: pytest.MonkeyPatch,
    note: str | None,
    logs: list[str],
    words: str,
) -> None:
    half(runs[1], monkeypatch)
    folder = runs[1].folder
    (folder / begun.RECORD).unlink()
    (folder / "train.log").unlink()
    if note is not None:
        (folder / begun.RECORD).write_text(note)
    for number, text in enumerate(logs):
        (folder / ("train.log" if number == 0 else f"train-{number}.log")).write_text(text)
    before, watch = left(folder), Watcher()
    with pytest.raises(ConfigError, match=words) as caught:
        run.execute(runs, watch)
    assert str(folder) in str(caught.value) and "Remove that folder" in str(caught.value)
    assert "go on with way no. 1" in str(caught.value)
    assert left(folder) == before and watch.events == [], "before the other seed's training"


def test_a_finished_training_of_any_way_stays(
    runs: list[Resolved], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, killed=False)
    run.execute(runs[:1], Watcher())
    (runs[0].folder / begun.RECORD).unlink()
    (runs[0].folder / "train.log").write_text(ALONE)
    again = Watcher()
    run.execute(runs[:1], again)
    assert again.events == [("reused", kind) for kind in ("train", "merge", "evaluate")]
    (runs[0].folder / "evaluate.txt").write_text("damaged")  # what comes after training may go on
    run.execute(runs[:1], Watcher())


def test_a_training_that_begins_anew_is_of_no_other_way(
    runs: list[Resolved], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    half(runs[0], monkeypatch)
    (runs[0].folder / begun.RECORD).write_text('{"sampling": 7}')
    study = (tmp_path / "it.yaml").read_text().replace("resume_every: 1\n", "")
    (tmp_path / "it.yaml").write_text(study + "evaluation: {checkpoints: [1, 2]}\n")
    [one, _] = resolve_all(read(tmp_path / "it.yaml"))
    run.execute([one], Watcher())
    assert (one.folder / "checkpoints-1").is_dir()
    assert json.loads((one.folder / begun.RECORD).read_text()) == {"sampling": begun.SAMPLING}


def test_a_run_that_verl_samples_by_itself(tmp_path: Path, runs: list[Resolved]) -> None:
    """On a GPU there are no such seeds: one that has no note goes on, one begun with them not."""
    [one, _] = resolve_all(read(tmp_path / "it.yaml"), where="node")
    given = one.run()
    given.checkpoints.mkdir(parents=True)
    (given.checkpoints / "latest_checkpointed_iteration.txt").write_text("1")
    begun.check(given)
    begun.write(given)
    begun.check(given)
    begun.write(runs[0].run())
    with pytest.raises(ConfigError, match="would go on with the engine's own stream"):
        begun.check(given)
