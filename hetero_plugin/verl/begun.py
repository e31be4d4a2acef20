"""How a training that goes on was begun: what it samples has to be of one make from end to end.

A run's settings say nothing of how this package samples for it. A training that one version began
and another goes on with would be neither's: no seed gives it again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hetero_plugin.config import ConfigError
from hetero_plugin.verl.resume import TRACKER

if TYPE_CHECKING:
    from hetero_plugin.verl.miniature import MiniatureRun
    from hetero_plugin.verl.noderun import NodeRun

__all__ = ["RECORD", "SAMPLING", "SEEDED", "check", "write"]

SAMPLING = 1
"""Number of the way in which a small run samples. Raise it with any change of
``hetero_plugin.verl.sampling``, ``hetero_plugin.verl.replay`` or ``MiniatureRun`` after which a
seed gives other answers, or a batch is in another order. Finished trainings stay valid."""
SEEDED = "hetero_plugin.verl.sampling.SeededAgentLoopManager"
"""A run samples in that way if its words name this; otherwise as verl and the engine do."""
RECORD = "sampling.json"
_UNKNOWN = "a way that is not known, as there is neither a note nor a log of it"


def check(run: MiniatureRun | NodeRun) -> None:
    """Refuses to go on from a checkpoint of a training that samples in another way.

    Raises:
        ConfigError: says how it was begun, how it would go on, and what can be done. Nothing is
            changed.
    """
    if not run.resumes or not (run.checkpoints / TRACKER).is_file():
        return  # it begins anew
    number = _number(run)
    found, now = _recorded(run.output), _name(number)
    if found == _UNKNOWN and number is None:
        return  # by verl alone, it seems; neither has a seed for each answer
    if found != now:
        raise ConfigError(
            f"{run.output} holds an unfinished training that was sampled by {found}; this version "
            f"would go on with {now}, and no seed would give that run again. Remove that folder, "
            "so that the training begins anew, or finish it with the version that began it."
        )


def write(run: MiniatureRun | NodeRun) -> None:
    """Notes in the run's folder how it samples; for a training that begins, or that `check` let."""
    path = run.output / RECORD
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as out:
        out.write(json.dumps({"sampling": _number(run)}) + "\n")
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)


def _number(run: MiniatureRun | NodeRun) -> int | None:
    return SAMPLING if any(SEEDED in word for word in run.words) else None


def _name(number: int | None) -> str:
    if number is None:
        return "the engine's own stream (no seed for each answer)"
    return f"way no. {number} (a seed for each answer, batches in order)"


def _recorded(folder: Path) -> str:
    """How the training in a folder was sampled, in words; of one without a note by its logs."""
    path = folder / RECORD
    if not path.is_file():
        return _logged(folder)
    try:
        number = json.loads(path.read_text(encoding="utf-8"))["sampling"]
        if number is None or (isinstance(number, int) and not isinstance(number, bool)):
            return _name(number)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return f"a way that is not known, as {path} can't be read"


def _logged(folder: Path) -> str:
    """The same of a training from before there were notes: its logs begin with its command."""
    found = set()
    for path in folder.glob("train*.log"):
        with path.open(encoding="utf-8", errors="replace") as log:
            if command := log.readline():
                found.add(SEEDED in command)
    if not found:
        return _UNKNOWN
    if len(found) > 1:
        return "two ways in turn, by its logs"
    return _name(1 if found.pop() else None)  # way no. 1 is that of the time before notes
