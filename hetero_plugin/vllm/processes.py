"""Ends an engine: its process, its workers and what those started, waited for and reaped.

vLLM gives its engine's process five seconds and then kills it. On a busy machine that is too short:
its workers are left to init, which in a container may never reap them, and the semaphores that it
shares with them are leaked.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import inspect
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

GRACE = 60.0
"""Seconds that an engine has to end by itself."""
_SET_SUBREAPER, _GET_SUBREAPER = 36, 37  # of prctl(2)


def end(llm: Any, grace: float = GRACE) -> None:
    """Ends an engine's processes; its memory is free afterwards, and none of them is left.

    Args:
        llm: a ``vllm.LLM``, whose engine is in this process or in one of its own.
        grace: seconds until what is left is killed.
    """
    import psutil

    core = getattr(llm.llm_engine, "engine_core", None)
    direct = list(_started(core))
    family = []
    for process in direct:
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(process.pid)
            family += [found, *found.children(recursive=True)]
    with _orphans_come_here():
        if core is not None and hasattr(core, "shutdown"):
            if "timeout" in inspect.signature(core.shutdown).parameters:
                core.shutdown(timeout=grace)
            else:
                core.shutdown()
        for process in direct:  # by the one who started it, so that it knows
            with contextlib.suppress(ValueError, AssertionError):
                process.join(5)
        for stop in ("terminate", "kill"):
            _, family = psutil.wait_procs(family, timeout=5)
            for one in family:
                with contextlib.suppress(psutil.Error):
                    getattr(one, stop)()
        psutil.wait_procs(family, timeout=5)
    if not _at_exit and sys.version_info < (3, 12):
        _at_exit.append(_TrackerReaper())
    gc.collect()


def _started(core: Any) -> Iterator[Any]:
    """The processes that an engine's client, or an engine in this process, has started itself."""
    manager = getattr(getattr(core, "resources", None), "engine_manager", None)
    yield from getattr(manager, "processes", None) or ()
    executor = getattr(getattr(core, "engine_core", None), "model_executor", None)
    for worker in getattr(executor, "workers", None) or ():
        if getattr(worker, "proc", None) is not None:
            yield worker.proc


class _TrackerReaper:
    """Reaps multiprocessing's resource tracker, last of all: Python before 3.12 leaves it to init.

    It has to live until everything that is shared between processes has been given back, which is
    after the functions of `atexit`; so this goes with the module, as in newer Pythons.
    """

    def __init__(self) -> None:
        from multiprocessing import resource_tracker

        self._tracker: Any = resource_tracker._resource_tracker
        self._owner = os.getpid()
        # At the end of the interpreter modules may be empty already.
        self._close, self._wait, self._getpid = os.close, os.waitpid, os.getpid
        self._hang, self._sleep, self._ending = os.WNOHANG, time.sleep, sys.is_finalizing
        self._error = OSError

    def __del__(self) -> None:
        # No word of Python's own here either: builtins may have gone before this module.
        tracker = self._tracker
        fd, pid = tracker._fd, tracker._pid
        if not self._ending() or fd is None or pid is None or self._getpid() != self._owner:
            return
        tracker._fd = tracker._pid = None
        waits = 40  # 2 s: somebody else may hold the other end
        try:
            self._close(fd)  # its sign to end
            while waits and self._wait(pid, self._hang) == (0, 0):
                waits -= 1
                self._sleep(0.05)
        except self._error:  # somebody else has waited for it
            return


_at_exit: list[_TrackerReaper] = []


@contextlib.contextmanager
def _orphans_come_here() -> Iterator[None]:
    """Within, a process whose parent dies becomes this one's child, and so can be waited for."""
    if not sys.platform.startswith("linux"):
        yield
        return
    prctl = ctypes.CDLL(None).prctl
    before = ctypes.c_int(0)
    prctl(_GET_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(_SET_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_SET_SUBREAPER, before.value, 0, 0, 0)
