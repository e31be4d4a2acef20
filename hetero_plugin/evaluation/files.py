"""Writing results: whole or not at all, by one process at a time, never over another's.

* A file is written beside its target under a name that no other process has, flushed to the disk
  and put in place in one step; the folder's entry is flushed too.
* ``locked`` keeps a target for one process from its first reading to its last writing.
* ``write_new`` puts a file where there is none; if one has appeared meanwhile, beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hetero_plugin.config.problems import ConfigError


class FileError(ConfigError):
    """A file that can't be read, written or claimed; the message says which and why."""


def reason(error: OSError) -> str:
    """What the system says, without the number and the path."""
    return error.strerror or str(error) or type(error).__name__


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that a reader, a second writer or a crash never meets half a file.

    Raises:
        OSError: it can't be written; the old file is as it was.
    """
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """The text that ``write_json`` writes."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Writes text so that a reader, a second writer or a crash never meets half a file.

    Raises:
        OSError: see ``write_json``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path, text) as partial:
        os.replace(partial, path)
    _sync_folder(path.parent)


def write_new(path: Path, value: Any) -> Path:
    """Writes JSON where there is no file yet; where one has appeared, beside it (``name-2.json``).

    Returns:
        The file that was written.

    Raises:
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path, as_json(value)) as partial:
        number, target = 1, path
        while not _place(partial, target):
            number += 1
            target = path.with_name(f"{path.stem}-{number}{path.suffix}")
    _sync_folder(path.parent)
    return target


def check_target(path: Path, option: str = "--out") -> None:
    """That a file can be written at ``path``, found out before minutes of work, not after.

    Its folder is made if need be.

    Raises:
        FileError: ``path`` is a folder, or its folder can't be made or written.
    """
    try:
        if path.is_dir():
            raise FileError(f"{option} {path}: is a folder; give a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path, ""):
            pass
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{option} {path}: can't be written: {reason(error)}") from None
    except ValueError as error:  # a NUL in the path
        raise FileError(f"{option} {str(path)!r}: can't be written: {error}") from None


@contextlib.contextmanager
def locked(
    path: Path,
    *,
    lock: Path | None = None,
    error: Callable[[str], Exception] = FileError,
    remedy: str = "wait for it, or give another --out",
) -> Iterator[None]:
    """Keeps ``path`` for this process, by ``flock`` on a file beside it.

    The lock goes with the process, however that ends; threads of one process exclude each other
    too. The lock file holds who has it, and is removed at the end.

    Args:
        path: what is kept; it need not be there. Its folder is made.
        lock: the lock file, if not ``.NAME.lock`` beside it.
        error: the exception to raise, made of a message.
        remedy: ends the sentence about another holder.

    Raises:
        FileError: another process has it (the message names pid, host and time), or the lock file
            can't be made; of another type as ``error`` says.
    """
    lock = path.with_name(f".{path.name}.lock") if lock is None else lock
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _lock(lock)
    except BlockingIOError:
        raise error(f"{path} is in use by {_holder(lock)}; {remedy}") from None
    except OSError as problem:
        raise error(f"{path}: its lock {lock} can't be taken: {reason(problem)}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        # By name: a process that was forked off holds the file open too, and may live on.
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _lock(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(handle, path):
                os.ftruncate(handle, 0)
                now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
                holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now}
                os.write(handle, json.dumps(holder).encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder removed it between our opening and our locking: once more


def _same(handle: int, path: Path) -> bool:
    try:
        there = path.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _holder(lock: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(lock.read_text(encoding="utf-8"))
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    return "another process"


@contextlib.contextmanager
def _beside(path: Path, text: str) -> Iterator[Path]:
    """A file with ``text`` in the same folder, on the disk; gone afterwards, if still there."""
    partial = path.with_name(f".{path.name[:100]}.{os.getpid()}-{uuid.uuid4().hex[:12]}.partial")
    try:
        with partial.open("x", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _place(partial: Path, target: Path) -> bool:
    """Gives a whole file its name if nothing has that name; whether it did."""
    try:
        os.link(partial, target)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with target.open("xb") as out:
                out.write(partial.read_bytes())
                out.flush()
                os.fsync(out.fileno())
        except FileExistsError:
            return False
    return True


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
