"""A study on this machine: prepare, train, merge, evaluate; what is finished is not made again."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.evaluation.files import locked, write_text
from hetero_plugin.study import record, stages, summary
from hetero_plugin.study.check import check, check_here
from hetero_plugin.study.machine import check_machine
from hetero_plugin.study.resolve import Resolved
from hetero_plugin.study.schema import Preparation
from hetero_plugin.study.stages import Stage
from hetero_plugin.verl import begun, group

__all__ = ["RECORD", "Observer", "claim", "execute", "identity", "status"]

RECORD = "run.json"
_FOLDERS = ("trainer.default_local_dir",)


class Observer(Protocol):
    """Who watches a study. Calls come from the threads that run its stages."""

    def planned(self, stages: tuple[Stage, ...], side_by_side: int) -> None: ...
    def began(self, stage: Stage) -> None: ...
    def progressed(self, stage: Stage, share: float, message: str) -> None: ...
    def ended(self, stage: Stage, record: dict[str, Any], *, reused: bool) -> None: ...
    def failed(self, stage: Stage, error: BaseException) -> None: ...


def identity(run: Resolved) -> dict[str, Any]:
    """What decides a run's result: a folder holds one of these."""
    settings = {key: value for key, value in run.settings.items() if key not in _FOLDERS}
    return {"run": run.name, "steps": run.steps, "settings": settings}


def claim(run: Resolved) -> bool:
    """Takes the run's folder, or goes on with the same run in it.

    Returns:
        True if the folder already holds this run.

    Raises:
        ConfigError: it holds a run of other settings, each named; nothing is changed.
    """
    path = run.folder / RECORD
    if path.is_file():
        if differences := _differences(run):
            raise ConfigError(
                f"{run.folder} holds a run of other settings ({'; '.join(differences)}). Go on "
                "with the settings it has, give another folder (--set output=...), or remove it."
            )
        return True
    there = run.folder.iterdir() if run.folder.is_dir() else ()
    found = sorted(p.name for p in there if not p.name.startswith("."))
    if found:
        raise ConfigError(
            f"{run.folder} holds {', '.join(found[:4])} and no {RECORD}, so what was run there is "
            "not known. Give another folder (--set output=...), or remove it."
        )
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(identity(run), indent=1) + "\n")
    return False


def _differences(run: Resolved) -> list[str]:
    """Settings of the run in the folder that are not this one's.

    Raises:
        ConfigError: what the folder holds can't be read.
    """
    path = run.folder / RECORD
    then = record.read(path)
    if then is None:
        raise ConfigError(
            f"{path}: can't be read as a JSON object, so what was run there is not known. Give "
            "another folder (--set output=...), or remove it."
        )
    return list(record.differences(then, json.loads(json.dumps(identity(run)))))


def status(run: Resolved) -> str:
    """Where a run stands, by its folder, in a few words; nothing is hashed."""
    try:
        return _status(run)
    except ConfigError as error:  # of this run; the others' still are told
        return f"not known: {error}"


def _status(run: Resolved) -> str:
    order = chain(run)
    if not (run.folder / RECORD).is_file():
        return "not begun"
    if other := _differences(run):
        return f"holds a run of other settings ({'; '.join(other)})"
    left = [stage.name for stage in order if record.read(stage.record) is None]
    if not left:
        return "finished"
    if len(left) < len(order):
        return f"{len(order) - len(left)} of {len(order)} stages, next: {left[0]}"
    steps = [step for step in summary.metrics_of(run.folder) if step > 0]
    tracker = run.folder / "checkpoints" / "latest_checkpointed_iteration.txt"
    kept = tracker.read_text().strip() if tracker.is_file() else "none"
    return f"step {steps[-1] if steps else 0} of {run.steps}, last checkpoint: {kept}"


def chain(run: Resolved) -> tuple[Stage, ...]:
    """The stages of one run, each after what it needs."""
    short = f"{run.arm}/seed-{run.seed}"
    trained = run.folder / "train.done.json"
    found = [
        Stage(
            f"train {short}",
            "train",
            trained,
            lambda: {**identity(run), "start": stages.prepared_digest(run.place)},
            partial(stages.train, run),
            # A verl run starts a dozen processes one after the other.
            140.0 + 0.36 * run.steps * run.settings.get("data.train_batch_size", 16)
            if run.place.device == "cpu"
            else None,
        )
    ]
    wanted = run.evaluation
    for step in run.study.checkpoints(run.steps):
        merged = run.folder / f"merge-step{step}.done.json"
        found.append(
            Stage(
                f"merge {short}/step-{step}",
                "merge",
                merged,
                lambda step=step: {"trained": _left(trained), "step": step},  # type: ignore[misc]
                partial(stages.merge, run, step),
                3.0,
            )
        )
        found.append(
            Stage(
                f"evaluate {short}/step-{step}",
                "evaluate",
                run.folder / f"eval-step{step}.done.json",
                partial(_evaluated, run, merged),
                partial(stages.evaluate, run, step),
                45.0 + 6.0 * (1 + wanted.draws * len(wanted.under) * (len(wanted.levels) - 1))
                if run.place.device == "cpu"
                else None,
            )
        )
    return tuple(found)


def _left(path: Path) -> Any:
    """What a stage left, as the next ones' input."""
    return (record.read(path) or {}).get("outputs")


def _evaluated(run: Resolved, merged: Path) -> dict[str, Any]:
    wanted = run.evaluation.model_dump(mode="json")
    for key in ("contrasts", "checkpoints"):
        wanted.pop(key)  # what is compared with what, and what else there is
    specs = {under: NoiseConfig.parse(under).fingerprint for under in run.evaluation.under}
    return {"model": _left(merged), "evaluation": wanted, "specifications": specs}


def preparations(runs: Sequence[Resolved]) -> list[tuple[Stage, Preparation]]:
    """What comes before all runs."""
    found = []
    for name, place in {run.where: run.place for run in runs}.items():
        made = place.prepare
        if made is not None:
            path = made.folder.absolute() / stages.PREPARED
            inputs, act = partial(stages.asked, made), partial(stages.prepare, made)
            found.append((Stage(f"prepare {name}", "prepare", path, inputs, act, 60.0), made))
    return found


def execute(runs: Sequence[Resolved], watch: Observer) -> list[dict[str, Any]]:
    """Does what is not finished of each run, and returns their summaries.

    Every run is checked before the first one starts. Runs go side by side as their place says.

    Raises:
        ConfigError: a setting that can't work, or something that is missing on this machine.
        RuntimeError: a stage failed; what was finished stays so.
    """
    first, chains = preparations(runs), [chain(run) for run in runs]
    lanes = max((run.place.side_by_side for run in runs), default=1)
    everything = (*(stage for stage, _ in first), *(stage for one in chains for stage in one))
    remedy = "wait for it, or leave this arm and seed to it"
    waiting = [
        run
        for run, order in zip(runs, chains, strict=True)
        if not all(stage.record.is_file() for stage in order)
    ]
    for run in waiting:
        # What will be prepared is not there to be looked at yet.
        (check_here if run.place.prepare is None else check)(run)
        if run.place.device == "cpu":
            check_machine(run.folder, lanes)
    with ExitStack() as held:
        for stage, made in first:
            stages.claim_prepared(made)
            held.enter_context(locked(stage.record, error=ConfigError, remedy="wait for it"))
        for run in runs:
            held.enter_context(locked(run.folder / RECORD, error=ConfigError, remedy=remedy))
        watch.planned(everything, lanes)
        for stage, _ in first:
            _do(stage, watch)
        for run in waiting:
            if run.place.prepare is not None:
                check_here(run)
        for run, order in zip(runs, chains, strict=True):
            claim(run)
            if not order[0].record.is_file():  # before another run's hours, and not after them
                begun.check(run.run())
        _all(chains, lanes, watch)
    return [_summary(run) for run in runs]


def _summary(run: Resolved) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((run.folder / summary.NAME).read_text(encoding="utf-8"))
    return data


def _all(chains: Sequence[Sequence[Stage]], lanes: int, watch: Observer) -> None:
    """Every chain, so many at once; at the first failure no other stage begins."""
    failed: list[BaseException] = []

    def one(order: Sequence[Stage]) -> None:
        for stage in order:
            if failed:
                return
            try:
                _do(stage, watch)
            except BaseException as error:
                failed.append(error)
                raise

    if lanes == 1:
        for order in chains:
            one(order)
        return
    with ThreadPoolExecutor(lanes) as pool:
        futures: list[Future[None]] = [pool.submit(one, order) for order in chains]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:  # after a failure, what is under way is finished
                future.result()
        except KeyboardInterrupt as error:
            failed.append(error)
            group.stop_all()
            try:
                wait(futures)
            finally:
                group.stop_all(False)
            raise


def _do(stage: Stage, watch: Observer) -> None:
    inputs = stage.inputs()
    there = record.finished(stage.record, inputs)
    if there is not None:
        watch.ended(stage, there, reused=True)
        return
    watch.began(stage)
    began = time.monotonic()
    try:
        outcome = stage.act(lambda share, message: watch.progressed(stage, share, message))
    except Exception as error:
        watch.failed(stage, error)
        raise
    seconds = time.monotonic() - began
    made = record.finish(stage.record, inputs, outcome.result, outcome.outputs, seconds)
    watch.ended(stage, made, reused=False)
