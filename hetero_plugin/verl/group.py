"""A process that ends with all that it started: no engine, no daemon of Ray stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

_stopping = threading.Event()


def stop_all(stop: bool = True) -> None:
    """Makes whoever waits in `pause` stop: Ctrl-C reaches the main thread alone."""
    if stop:
        _stopping.set()
    else:
        _stopping.clear()


def pause(seconds: float) -> None:
    """Waits; the threads that follow a process wait by this.

    Raises:
        KeyboardInterrupt: `stop_all` was called.
    """
    if _stopping.wait(seconds):
        raise KeyboardInterrupt


def start(
    command: Sequence[str], env: Mapping[str, str], cwd: Path | None, output: IO[str]
) -> subprocess.Popen[bytes]:
    """Starts a command in a session of its own, which ends when this process does, however it does.

    Args:
        command: nothing in it is read by a shell.
        env: its environment.
        cwd: where it runs; None: here.
        output: an open file for its output and its errors.
    """
    supervisor = Path(__file__).with_name("supervise.py")
    return subprocess.Popen(
        [sys.executable, "-I", str(supervisor), *command],
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.PIPE,  # never written to: that it is closed says that this process is gone
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Ends the process group of a process that `start` started, and reaps it.

    Args:
        process: the group's leader; it may have ended.
        patience: seconds from SIGTERM to SIGKILL; a group that is gone is not waited for.
    """
    for sign, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        if not _sent(process.pid, sign):
            break
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            process.poll()  # a leader that was not reaped keeps its group
            if not _sent(process.pid, 0):
                break
            time.sleep(0.05)
    process.wait(timeout=10)
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


def _sent(group: int, sign: int) -> bool:
    """Whether there was a process of the group to send a signal to; 0: only asks."""
    try:
        os.killpg(group, sign)
    except ProcessLookupError:
        return False
    return True
