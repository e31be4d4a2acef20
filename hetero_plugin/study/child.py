"""Runs a stage in a process of its own: output to a log file, progress read from that log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hetero_plugin.verl import group

PREFIX = "@progress "


class StageFailed(RuntimeError):
    """A stage's process failed; the message ends with the last lines of its log."""


def tell(share: float, message: str) -> None:
    """Called in the child: one line of progress on standard output."""
    print(PREFIX + json.dumps([share, message]), flush=True)


def tail(path: Path, lines: int = 25) -> str:
    """The end of a log, without its progress lines."""
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([line for line in text if not line.startswith(PREFIX)][-lines:])


def run(
    command: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    report: Callable[[float, str], None],
    *,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> None:
    """Run `command` in `cwd` to its end, following its progress.

    `timeout` is in seconds; None: however long it takes.

    On an interrupt, and when this process is killed, it and all that it started are ended.

    Raises:
        StageFailed: it exited with an error, or took too long.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    deadline = None if timeout is None else time.monotonic() + timeout
    with log.open("w", encoding="utf-8") as output, log.open(encoding="utf-8") as follow:
        process = group.start(command, env, cwd, output)
        partial = ""
        try:
            while True:
                ended = process.poll() is not None
                partial += follow.read()
                *whole, partial = partial.split("\n")
                for line in whole:
                    if line.startswith(PREFIX):
                        share, message = json.loads(line.removeprefix(PREFIX))
                        report(float(share), str(message))
                if ended:
                    break
                if deadline is not None and time.monotonic() > deadline:
                    raise StageFailed(f"stopped after {timeout:.0f} s; log: {log}\n{tail(log)}")
                group.pause(0.25)
        finally:
            group.end(process, patience=5.0)
    if process.returncode != 0:
        raise StageFailed(f"exit status {process.returncode}; log: {log}\n{tail(log)}")
