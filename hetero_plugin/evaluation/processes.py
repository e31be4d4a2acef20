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
import sys
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
    gc.collect()


def _started(core: Any) -> Iterator[Any]:
    """The processes that an engine's client, or an engine in this process, has started itself."""
    manager = getattr(getattr(core, "resources", None), "engine_manager", None)
    yield from getattr(manager, "processes", None) or ()
    executor = getattr(getattr(core, "engine_core", None), "model_executor", None)
    for worker in getattr(executor, "workers", None) or ():
        if getattr(worker, "proc", None) is not None:
            yield worker.proc


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
