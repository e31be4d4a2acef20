"""Ends a process and all that it started: engines' workers and Ray's daemons would stay behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

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


def end(process: subprocess.Popen[bytes], patience: float) -> None:
    """Ends the process group of a process that was started in a session of its own, and reaps it.

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


def _sent(group: int, sign: int) -> bool:
    """Whether there was a process of the group to send a signal to; 0: only asks."""
    try:
        os.killpg(group, sign)
    except ProcessLookupError:
        return False
    return True
