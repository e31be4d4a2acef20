"""Notices that a training run has lost workers and waits for them without end.

verl starts its Ray actors without restarts. Most calls to one that has died raise, and the run ends
by itself; some wait: the transfer of weights to a rollout that is gone does, for ever (seen when
Ray ended workers for want of memory). Ray says in the driver's output what it lost, and a run that
takes no further step after that is ended.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["LostWorkers"]

_SAID = re.compile(r"(\d+) Workers \(tasks / actors\) killed due to memory pressure.*?(\d+) Worker")
_PATIENCE = 120.0
"""Seconds in which a run that can't go on has usually ended by itself."""
_BEFORE_FIRST = 1800.0
"""Seconds for the first step: loading and compiling a large model takes long, and a worker that
was idle when it was lost is not missed."""


class LostWorkers:
    """Follows the log of one run.

    Args:
        log: what the driver prints; it need not be there yet.
        clock: seconds, monotonic.
    """

    def __init__(self, log: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._read, self._rest = 0, ""
        self._stepped, self._longest = clock(), 0.0
        self._since: float | None = None
        self._memory = self._others = 0

    def stepped(self) -> None:
        """The run has taken a step: what it lost, it can do without."""
        now = self._clock()
        self._longest = max(self._longest, now - self._stepped)
        self._stepped, self._since = now, None
        self._memory = self._others = 0

    def hopeless(self) -> str | None:
        """What was lost, once no step has come for two minutes since, or twice the longest step;
        for half an hour, where there was none yet.
        """
        self._follow()
        if self._since is None:
            return None
        patience = max(_PATIENCE, 2 * self._longest) if self._longest else _BEFORE_FIRST
        if self._clock() - self._since < patience:
            return None
        how = []
        if self._memory:
            how.append(f"{self._memory} ended for want of memory")
        if self._others:
            how.append(f"{self._others} crashed or killed")
        return (
            f"Ray lost workers of it ({', '.join(how)}) and no step was taken in the "
            f"{patience:.0f} seconds since"
        )

    def _follow(self) -> None:
        if not self._log.is_file():
            return
        with self._log.open("rb") as source:
            source.seek(self._read)
            fresh = source.read()
        self._read += len(fresh)
        *whole, self._rest = (self._rest + fresh.decode("utf-8", "replace")).split("\n")
        for line in whole:
            found = _SAID.search(line)
            if found:
                self._memory += int(found[1])
                self._others += int(found[2])
                self._since = self._since if self._since is not None else self._clock()
