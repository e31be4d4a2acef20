"""Runs of a study on this machine, one after the other; a finished one is not made again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation.files import locked, write_text
from hetero_plugin.study import summary
from hetero_plugin.study.check import check_here
from hetero_plugin.study.resolve import Resolved

__all__ = ["RECORD", "claim", "execute", "identity", "status"]

RECORD = "run.json"
_FOLDERS = ("trainer.default_local_dir",)


def identity(run: Resolved) -> dict[str, Any]:
    """What decides a run's result: a folder holds one of these."""
    settings = {key: value for key, value in run.settings.items() if key not in _FOLDERS}
    return {"run": run.name, "steps": run.steps, "settings": settings}


def _changes(name: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _changes(f"{name}.{key}" if name else key, old.get(key), new.get(key))
    else:
        yield f"{name}: {json.dumps(old)} there, {json.dumps(new)} here"


def claim(run: Resolved) -> bool:
    """Takes the run's folder, or goes on with the same run in it.

    Returns:
        True if the folder already holds this run.

    Raises:
        ConfigError: it holds a run of other settings, each named; nothing is changed.
    """
    path, now = run.folder / RECORD, json.loads(json.dumps(identity(run)))
    if path.is_file():
        try:
            then = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: can't be read: {error}") from None
        differences = list(_changes("", then, now))
        if differences:
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
    write_text(path, json.dumps(now, indent=1) + "\n")
    return False


def _finished(run: Resolved) -> dict[str, Any] | None:
    """The summary of a run that is done, its last checkpoint being there; else None."""
    path = run.folder / summary.NAME
    if not path.is_file() or not run.run().checkpoint.is_dir():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return data if data.get("steps") == run.steps else None


def status(run: Resolved) -> str:
    """Where a run stands, by its folder, in a few words."""
    if _finished(run) is not None:
        return "finished"
    if not (run.folder / RECORD).is_file():
        return "not begun"
    steps = [step for step in summary.metrics_of(run.folder) if step > 0]
    tracker = run.folder / "checkpoints" / "latest_checkpointed_iteration.txt"
    kept = tracker.read_text().strip() if tracker.is_file() else "none"
    return f"step {steps[-1] if steps else 0} of {run.steps}, last checkpoint: {kept}"


def execute(
    runs: Sequence[Resolved],
    say: Callable[[str], None],
    *,
    timeout: float | None = None,
) -> list[dict[str, Any]]:
    """Runs each that is not finished, in order, and returns their summaries.

    Every run is checked before the first one starts.

    Args:
        say: is told what happens, a line at a time.
        timeout: seconds a run may take.

    Raises:
        ConfigError: a setting that can't work, or something that is missing on this machine.
        LaunchError: a run failed; those before it stay finished.
    """
    waiting = [run for run in runs if _finished(run) is None]
    for run in waiting:
        check_here(run)
    done = []
    for run in runs:
        remedy = "wait for it, or leave this arm and seed to it"
        with locked(run.folder / RECORD, error=ConfigError, remedy=remedy):
            done.append(_one(run, say, timeout))
    return done


def _one(run: Resolved, say: Callable[[str], None], timeout: float | None) -> dict[str, Any]:
    """The summary of one run, made now unless it is there; its folder is held meanwhile."""
    from hetero_plugin.verl import launch

    held, earlier = claim(run), _finished(run)
    if earlier is not None:
        say(f"{run.name}: finished before")
        return earlier
    say(f"{run.name}: {'goes on' if held else 'starts'}; log: {run.folder / 'train.log'}")

    def progress(step: int, data: Mapping[str, Any]) -> None:
        reward = data.get("critic/rewards/mean")
        words = "" if reward is None else f", reward {float(reward):.3f}"
        say(f"{run.name}: step {step} of {run.steps}{words}")

    began = time.monotonic()
    launch.execute(run.run(), progress, timeout=timeout)
    data = summary.write(run, time.monotonic() - began)
    for line in summary.lines(data):
        say(f"  {line}")
    say(f"  {run.folder / summary.NAME}")
    return data
