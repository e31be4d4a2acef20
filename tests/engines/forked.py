"""Processes with vLLM imported already: copies of one that each test process keeps for this.

Importing vLLM, PyTorch's compiler and transformers is most of what starting the engine of a tiny
model takes. The first call of `start` pays for it, all others have it for nothing.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = [
    "torch._inductor.compile_fx",
    "transformers",
    "vllm.entrypoints.llm",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "hetero_plugin.vllm.install",
]
"""Nothing of these may start a thread or read a variable that a test sets for its engine."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)
_first: dict[str, str] = {}
"""The environment that the copied process has."""


def start(
    target: Callable[..., None],
    arguments: tuple[Any, ...],
    log: Path,
    env: dict[str, str],
    *,
    imported: bool = True,
) -> tuple[BaseProcess, Connection]:
    """Runs ``target(connection, *arguments)`` in a process of its own.

    Args:
        target: a module's function.
        log: what the process prints is appended to it, and what its own processes print.
        env: variables besides this process's; one thread a process, unless it says otherwise.
        imported: False: with nothing imported, for variables that vLLM or Triton reads on import.

    Returns:
        The process and the other end of its connection.
    """
    environ = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": str(ROOT)}
    if not _first and imported:
        _first.update(environ)
    base = _first if imported else dict(os.environ)
    wanted = environ | env
    changed = {k: wanted.get(k) for k in base.keys() | wanted if wanted.get(k) != base.get(k)}
    ours, theirs = multiprocessing.Pipe()
    context = _context if imported else multiprocessing.get_context("spawn")
    process = context.Process(target=_run, args=(target, theirs, arguments, str(log), changed))
    before = dict(os.environ)
    os.environ.update(environ)  # what is copied starts with the first process of all
    try:
        process.start()
    finally:
        for name in environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
    theirs.close()
    return process, ours


def _run(
    target: Callable[..., None],
    connection: Connection,
    arguments: tuple[Any, ...],
    log: str,
    changed: dict[str, str | None],
) -> None:
    """In the process."""
    for name, value in changed.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    with open(log, "ab", buffering=0) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    try:
        target(connection, *arguments)
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()  # vLLM ends its processes there; multiprocessing would skip it


def end(process: BaseProcess, connection: Connection) -> None:
    """Closes the connection, which is the sign to stop, and kills what has not in a minute."""
    connection.close()
    process.join(60)
    if process.is_alive():
        process.kill()
        process.join()
