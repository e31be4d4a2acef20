"""Under which noise a checkpoint was trained, and that a resumed run goes on under the same.

A record lies in each ``global_step_N`` beside the weights. The driver compares before a process
starts, and the trainer, which loads the checkpoint, once more: it may be on another machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError
from hetero_plugin.verl.settings import RunNoise

RECORD = "hetero_noise.json"
TRACKER = "latest_checkpointed_iteration.txt"
_STEP = re.compile(r"global_step_(\d+)")


def identity(noise: RunNoise | None) -> dict[str, Any]:
    """What has to be the same for training to go on: ``{"noisy": False}`` for a clean run."""
    if noise is None:
        return {"noisy": False}
    config = noise.config
    return {
        "noisy": True,
        "fingerprint": config.fingerprint,
        # AQN in the actor is no part of the specification, but of what is trained.
        "actor_aqn": bool(config.aqn is not None and noise.options.actor_aqn),
        "spec": json.loads(config.canonical),
    }


def write(checkpoint: Path, noise: RunNoise | None) -> Path:
    """Writes the record into ``global_step_N``, before there are weights to resume from."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    path, partial = checkpoint / RECORD, checkpoint / (RECORD + ".partial")
    partial.write_text(json.dumps(identity(noise), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def resumed_from(trainer: Any) -> Path | None:
    """The ``global_step_N`` folder that verl will load under this ``trainer`` node, or None."""
    mode = trainer.get("resume_mode", "disable")
    if mode == "resume_path":
        path = trainer.get("resume_from_path")
        return Path(os.path.abspath(str(path))) if path else None
    if mode != "auto" or not trainer.get("default_local_dir"):
        return None
    folder = Path(os.path.abspath(str(trainer.default_local_dir)))
    try:  # as verl's find_latest_ckpt_path, which would bring all of verl's engines along
        found = folder / f"global_step_{int((folder / TRACKER).read_text())}"
    except (OSError, ValueError):
        return None
    return found if found.exists() else None


def go_back(checkpoints: Path, written: Collection[int]) -> int:
    """Lets verl resume from the last checkpoint whose step has its metrics.

    verl saves a step, sends its weights to the rollout, validates, and writes the step's metrics
    then. Resumed from a step at which it was stopped in between, it would go on with the next, and
    what was measured at that one would be missing for good. So it would be for a note of the latest
    checkpoint that is empty, as verl was stopped while it wrote it: verl can't start then.

    Args:
        checkpoints: verl's ``trainer.default_local_dir``.
        written: the steps with metrics.

    Returns:
        The step that training goes on from now, 0 for the start; -1: nothing had to be changed.
    """
    tracker = checkpoints / TRACKER
    try:
        if int(tracker.read_text()) in written:
            return -1
    except FileNotFoundError:
        return -1
    except ValueError:
        pass
    whole = [
        int(found[1])
        for path in checkpoints.glob("global_step_*/data.pt")  # what verl writes last
        if (found := _STEP.fullmatch(path.parent.name)) and any(path.parent.glob("actor/model_*"))
    ]
    last = max((step for step in whole if step in written), default=0)
    if last:
        partial = tracker.with_suffix(".partial")
        partial.write_text(str(last))
        partial.replace(tracker)
    else:
        tracker.unlink()
    return last


def check(trainer: Any, noise: RunNoise | None) -> None:
    """Refuses to go on from a checkpoint of other noise, or of noise that nobody knows.

    Args:
        trainer: verl's ``trainer`` node.
        noise: of this run; None for a clean one.

    Raises:
        ConfigError: names the checkpoint, and what was then and is now.
    """
    checkpoint = resumed_from(trainer)
    if checkpoint is None or not checkpoint.is_dir():
        return  # verl says so itself where it should be there
    then, now = _recorded(checkpoint), identity(noise)
    difference = _unrecorded(checkpoint, now) if then is None else _difference(then, now)
    if difference is not None:
        raise ConfigError(
            f"trainer.resume_mode={trainer.get('resume_mode')}: {checkpoint} {difference}. "
            "Training can't go on under other noise: resume with the noise it had, or say "
            "trainer.resume_mode=disable and another trainer.default_local_dir. To start from "
            "these weights on purpose, merge them and give the folder as "
            "actor_rollout_ref.model.path."
        )


def _recorded(checkpoint: Path) -> Mapping[str, Any] | None:
    path = checkpoint / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and isinstance(record["noisy"], bool):
            return record
    except (OSError, ValueError, KeyError):
        pass
    raise ConfigError(f"{path} can't be read, so the noise of this checkpoint is not known")


def _unrecorded(checkpoint: Path, now: Mapping[str, Any]) -> str | None:
    """The same of a checkpoint without a record: older than those, or of verl alone."""
    found = _attested(checkpoint.parent)
    if found is None:
        if not now["noisy"]:
            return None
        return (
            f"holds no {RECORD}, so the noise that it was trained under is not known (none, if "
            "verl ran without this package)"
        )
    if now["noisy"] and found == [now["fingerprint"]]:
        return None
    return (
        f"holds no {RECORD}, and the attestations beside it are of specification "
        f"{', '.join(found)}; this run has {now.get('fingerprint', 'none: it is clean')}"
    )


def _attested(folder: Path) -> list[str] | None:
    """Specifications of the attestations in the run's folder; None without any."""
    found = set()
    for path in folder.glob("attestation-*.json"):
        try:
            found.add(str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"]))
        except (OSError, ValueError, KeyError, TypeError):
            found.add(f"unknown ({path.name})")
    return sorted(found) or None


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What is other now, in words that follow the checkpoint's name; None if nothing is."""
    if not then["noisy"] or not now["noisy"]:
        if then["noisy"] == now["noisy"]:
            return None
        was, is_ = (
            f"with noise ({one.get('fingerprint')})" if one["noisy"] else "clean"
            for one in (then, now)
        )
        return f"was trained {was}, and this run is {is_}"
    keys = [key for key in ("fingerprint", "actor_aqn") if then.get(key) != now[key]]
    if not keys:
        return None
    parts = [f"{key} {then.get(key)!r} then, {now[key]!r} now" for key in keys]
    parts += _changes("spec", then.get("spec"), now["spec"])
    return f"was trained under other noise ({'; '.join(parts)})"


def _changes(name: str, old: Any, new: Any) -> Iterator[str]:
    """What differs, value by value, as ``spec.rules[0].scale: 0.05 then, 0.1 now``."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _changes(f"{name}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from _changes(f"{name}[{index}]", *pair)
    else:
        texts = [json.dumps(value, sort_keys=True) for value in (old, new)]
        was, is_ = (text if len(text) <= 120 else text[:117] + "..." for text in texts)
        yield f"{name}: {was} then, {is_} now"
