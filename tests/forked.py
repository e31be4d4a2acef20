"""Processes with vLLM imported already: copies of one that each test process keeps for this.

Importing PyTorch, its compiler, transformers and vLLM takes longer than most of what tests do in a
process of its own. The first call of `start` pays for it, the others have it for nothing. Of the
package only what vLLM imports as its plugin is there in advance.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = [
    "torch._inductor.compile_fx",
    "transformers",
    "vllm.entrypoints.llm",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
]
"""None of these may start a thread, or read a variable that a test sets for its process."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED if importlib.util.find_spec("vllm") else IMPORTED[:2])
_first: dict[str, str] = {}
"""The environment that the copied process has."""


def start(
    target: Callable[..., None],
    arguments: tuple[Any, ...],
    out: Path,
    env: dict[str, str],
    *,
    err: Path | None = None,
    imported: bool = True,
) -> tuple[BaseProcess, Connection]:
    """Runs ``target(connection, *arguments)`` in a process of its own.

    Args:
        target: a module's function.
        out: what the process and those that it starts print is appended to it.
        env: variables besides this process's; one thread a process, unless they say otherwise.
        err: what goes to the error stream is appended to it; None: to ``out``.
        imported: False: with nothing imported, for variables that vLLM or Triton reads on import.

    Returns:
        The process, and the other end of its connection.
    """
    environ = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": str(ROOT)}
    if imported and not _first:
        _first.update(environ)
    base, wanted = _first if imported else environ, environ | env
    changed = {k: wanted.get(k) for k in base.keys() | wanted if wanted.get(k) != base.get(k)}
    ours, theirs = multiprocessing.Pipe()
    context = _context if imported else multiprocessing.get_context("spawn")
    files = str(out), str(err or out)
    process = context.Process(target=_run, args=(target, theirs, arguments, files, changed))
    with _environment(environ):  # which the process that is copied starts with
        process.start()
    theirs.close()
    return process, ours


@contextlib.contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _run(
    target: Callable[..., None],
    connection: Connection,
    arguments: tuple[Any, ...],
    files: tuple[str, str],
    changed: dict[str, str | None],
) -> None:
    """In the process."""
    for name, value in changed.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    for stream, file in zip((1, 2), files, strict=True):
        with open(file, "ab") as opened:
            os.dup2(opened.fileno(), stream)
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


def python(
    code: str, *words: str, folder: Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``python -c code words...`` in a copy; its output goes through files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    out, err = folder / "out.txt", folder / "err.txt"
    out.write_text("")
    err.write_text("")
    arguments = (code, words, str(cwd or Path.cwd()))
    process, connection = start(_execute, arguments, out, env or {}, err=err)
    process.join()
    connection.close()
    given = [sys.executable, "-c", code, *words]
    return subprocess.CompletedProcess(
        given, process.exitcode or 0, out.read_text(), err.read_text()
    )


def _execute(connection: Connection, code: str, words: tuple[str, ...], cwd: str) -> None:
    os.chdir(cwd)
    sys.argv = ["-c", *words]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
