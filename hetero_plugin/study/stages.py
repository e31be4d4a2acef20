"""The stages of a study, each a plain function of what it works on.

A stage reads what earlier stages wrote, writes its own files, reports progress through a callback
and returns JSON data. It knows nothing of the order of stages, of resuming or of the screen.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.study import child, record, saying, summary, weights
from hetero_plugin.study.resolve import Resolved, model_folder
from hetero_plugin.study.schema import Place, Preparation

__all__ = ["Outcome", "Report", "Stage", "evaluate", "merge", "prepare", "train"]

Report = Callable[[float, str], None]
"""Told which share of the stage is done, and what it is doing."""
PREPARED = "prepared.json"


@dataclass(frozen=True)
class Outcome:
    """What a stage leaves: JSON data (``words``: in a line, for people), and files to hash."""

    result: dict[str, Any]
    outputs: tuple[Path, ...]


@dataclass(frozen=True)
class Stage:
    """One step of a study.

    Args:
        name: of this one, such as ``train noise/seed-0``.
        kind: prepare, train, merge, evaluate or report: those of a kind take about as long.
        record: the file that says it is finished.
        inputs: what decides its result, as JSON data; asked for when it is to begin.
        act: does it.
        expected: seconds on two quiet cores; None: not known.
    """

    name: str
    kind: str
    record: Path
    inputs: Callable[[], Any]
    act: Callable[[Report], Outcome]
    expected: float | None = None


def files_of(folder: Path) -> tuple[Path, ...]:
    """The plain files of a folder, its own and those of folders in it, but for records and logs."""
    return tuple(
        sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
            if path.suffix != ".log" and path.name != PREPARED
        )
    )


def asked(made: Preparation) -> dict[str, Any]:
    """What decides what a preparation leaves."""
    return {"script": Path(made.script).name, "options": dict(made.options)}


def claim_prepared(made: Preparation) -> None:
    """That a folder is this preparation's, or nobody's yet.

    Raises:
        ConfigError: another's, each difference named; or something else is in it.
    """
    folder = made.folder.absolute()
    path = folder / "asked.json"
    then, now = record.read(path), json.loads(json.dumps(asked(made)))
    if then is not None:
        found = list(record.differences(then, now))
        if found:
            raise ConfigError(
                f"{folder} was prepared otherwise ({'; '.join(found)}). Prepare as it was, give "
                "another folder (places.NAME.prepare.folder), or remove it."
            )
        return
    names = [one.name for one in folder.iterdir()] if folder.is_dir() else []
    there = [name for name in names if not name.startswith(".")]  # what a killed process began
    if there:
        raise ConfigError(
            f"{folder} holds {', '.join(sorted(there)[:4])} and no {path.name}, so how it was made "
            "is not known. Give another folder (places.NAME.prepare.folder), or remove it."
        )
    from hetero_plugin.evaluation.files import write_json

    write_json(path, now)


def prepare(made: Preparation, report: Report) -> Outcome:
    """Runs the script that makes the model and the questions.

    Raises:
        StageFailed: it failed, with the end of its log.
    """
    folder = made.folder.absolute()
    words = [sys.executable, made.script, "--out", str(folder)]
    for key, value in made.options.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    # The script's package may be the one that is running, wherever it lies.
    child.run(words, dict(os.environ), folder / "prepare.log", report)
    found = files_of(folder)
    learnt = record.read(folder / "warmup.json") or {}
    said = (
        f"{learnt['accuracy']:.1%} of {learnt['n_dev']} after {learnt['steps']} steps"
        if "accuracy" in learnt
        else f"{len(found)} files"
    )
    return Outcome({"words": said}, found)


def prepared_digest(place: Place) -> str | None:
    """What a preparation left, in a few letters; None where there is none."""
    if place.prepare is None:
        return None
    found = record.read(place.prepare.folder.absolute() / PREPARED)
    return None if found is None else record.digest(found["outputs"])


def train(run: Resolved, report: Report) -> Outcome:
    """Trains by verl; fails unless every process that should be noisy said so in the log.

    Raises:
        LaunchError: training failed (with the end of its log).
        SilentProcess: a process that should be noisy did not say so, or a clean arm is noisy.
    """
    from hetero_plugin.verl import launch

    given, began = run.run(), time.monotonic()

    def progress(step: int, data: Mapping[str, Any]) -> None:
        reward = data.get("critic/rewards/mean")
        words = "" if reward is None else f", reward {float(reward):.3f}"
        report(0.3 + 0.7 * step / run.steps, f"step {step} of {run.steps}{words}")

    report(0.0, "starting Ray, the actor and vLLM")
    launch.execute(given, progress, timeout=run.place.timeout)
    said = saying.check_log(given.log, run.noise) if run.place.device == "cpu" else None
    data = summary.write(run, time.monotonic() - began)
    reward = list(data["reward"].values())
    words = f"reward {reward[0]:.2f} to {reward[-1]:.2f}" if reward else "trained"
    if run.noise is not None:
        words += f", attested {len(data['attested'])} times"
    return Outcome(
        {"words": words, "said": said, "seconds_of_steps": data["seconds"]["step"]},
        (run.folder / summary.NAME, given.metrics),
    )


def merge(run: Resolved, step: int, report: Report) -> Outcome:
    """A checkpoint as a clean Hugging Face folder.

    On a CPU by this package, which keeps float32; elsewhere by verl's own merger, which rounds to
    bfloat16.

    Raises:
        CheckpointError: incomplete, not clean, or not moved by training.
        StageFailed: verl's merger failed, with the end of its log.
    """
    from hetero_plugin.verl import checkpoint

    target, base = run.model_at(step), model_folder(run.place.model or run.study.model)
    actor = run.folder / "checkpoints" / f"global_step_{step}" / "actor"
    if run.place.device == "cpu" and base is not None:
        # torch warns that a mesh read from a file has no process group: there is none.
        logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)
        checkpoint.merge(actor, base, target)
    else:
        command = [sys.executable, *run.merger(step)[1:]]
        child.run(command, dict(os.environ), run.folder / f"merge-step{step}.log", report)
    weights.check_clean(target)
    moved = weights.movement(base, target) if base is not None else {}
    words = f"{moved['relative_change']:.2%} of the weights' norm" if moved else ""
    return Outcome({"words": words, **moved}, files_of(target))


def evaluate(run: Resolved, step: int, report: Report) -> Outcome:
    """Greedy accuracy at every level by vLLM, attested, in a process of its own.

    One engine serves every specification, level and draw.

    Raises:
        StageFailed: the evaluation failed or was refused, with the end of its log.
    """
    wanted, data = run.evaluation, run.place.data or run.study.data
    outs = {Path(under).stem: run.evaluated_at(step, under) for under in wanted.under}

    def near(path: Path) -> str:
        return os.path.relpath(path, run.folder)  # so that moved folders still hold the same run

    job = {
        "model_path": near(run.model_at(step)),
        "data_file": near(Path(data.test or data.val).expanduser().absolute()),
        "specs": {
            Path(under).stem: json.loads(NoiseConfig.parse(under).canonical)
            for under in wanted.under
        },
        "outs": {name: near(out) for name, out in outs.items()},
        "settings": {
            "levels": list(wanted.levels),
            "n": wanted.questions,
            "seed": wanted.seed,
            "draws": wanted.draws,
            "max_tokens": wanted.max_tokens,
            "dtype": wanted.dtype,
            "margin": wanted.margin,
            "engine": wanted.engine,
        },
    }
    command = [sys.executable, "-m", "hetero_plugin.study.evaluate_child", json.dumps(job)]
    for out in outs.values():
        _discard_stale(out, run.model_at(step))
    log = run.folder / f"eval-step{step}.log"
    child.run(command, run.environment(), log, report, cwd=run.folder)
    accuracy: dict[str, dict[str, float]] = {}
    for name, out in outs.items():
        document = json.loads(out.read_text(encoding="utf-8"))
        accuracy[name] = {
            f"{row['level']:g}": row["accuracy"]["value"] for row in document["levels"]
        }
    first = next(iter(accuracy.values()))
    words = ", ".join(f"{value:.1%} at {float(level):.0%}" for level, value in first.items())
    return Outcome({"words": words, "accuracy": accuracy}, tuple(outs.values()))


def _discard_stale(out: Path, model: Path) -> None:
    """Removes an evaluation of weights that have been trained anew since."""
    from hetero_plugin.evaluation.checkpoints import weights_digest

    if not out.is_file():
        return
    header = (record.read(out) or {}).get("header") or {}
    if header.get("model_sha256") != weights_digest(model):
        out.unlink()
