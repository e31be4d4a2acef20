"""What was measured or written before is kept: beside the new, or by a refusal.

A second run into one folder, a resumed run and a merge all meet files of an earlier one. Files of
measurements are set aside under a number. A folder is replaced only where this package wrote it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MARKER = ".hetero_noise_merged.json"


class KeptError(RuntimeError):
    """Something is in the way that this package did not write."""


def unused(path: Path) -> Path:
    """``path``, or ``stem-2``, ``stem-3``...: the first of them that is not there."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def keep_beside(path: Path) -> Path | None:
    """Renames what is at ``path`` to ``stem-N``, so that ``path`` can be written anew.

    The folder that it is to be in is made: verl opens its metrics file wherever it is told to.

    Returns:
        Its new name; None if nothing was there, or an empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(path) or (path.is_file() and path.stat().st_size == 0):
        return None
    number = 1
    while os.path.lexists(free := path.with_stem(f"{path.stem}-{number}")):
        number += 1
    path.rename(free)
    print(f"hetero_noise: {path} of an earlier run is kept as {free.name}", flush=True)
    return free


def _within(inner: Path, outer: Path) -> bool:
    """Whether ``inner`` is ``outer`` or below it, whatever links and mounts they are named by."""
    for folder in (inner, *inner.parents):
        try:
            if folder == outer or os.path.samefile(folder, outer):
                return True
        except OSError:  # one of them is not there yet
            continue
    return False


def check_target(target: Path, inputs: Sequence[Path]) -> Path:
    """``target`` with its links resolved, if a folder may be written there.

    Args:
        target: not there, an empty folder, or a folder of `new_folder` with nothing added.
        inputs: files and folders that are read; none may be, hold or be in ``target``.

    Raises:
        KeptError: says what is in the way.
    """
    if target.is_symlink():
        raise KeptError(f"{target} is a symbolic link; give the folder itself as target")
    full = target.resolve()
    for given in inputs:
        source = given.resolve()
        if _within(full, source) or _within(source, full):
            raise KeptError(
                f"{target} overlaps with {given}, which is read: writing the one would destroy the "
                "other. Give a target outside it"
            )
    if not full.exists():
        return full
    if not full.is_dir():
        raise KeptError(f"{target} is a file; give a folder that is to be made")
    found = {str(path.relative_to(full)) for path in full.rglob("*")}
    if not found:
        return full
    foreign = sorted(found - _written(full))
    if foreign:
        more = "" if len(foreign) <= 5 else f" and {len(foreign) - 5} more"
        raise KeptError(
            f"{target} holds what this package did not write there ({', '.join(foreign[:5])}{more}"
            "), and is not replaced. Give a new folder, or remove it yourself"
        )
    return full


def _written(folder: Path) -> set[str]:
    """The names that the folder's marker lists; none without a marker."""
    try:
        contents = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return {MARKER, *map(str, contents["files"])}
    except (OSError, ValueError, TypeError, KeyError):
        return set()


@contextmanager
def new_folder(target: Path, inputs: Sequence[Path]) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``target`` once the block has ended well.

    Until then, and after an error, ``target`` is what it was.

    Raises:
        KeptError: see `check_target`.
    """
    full = check_target(target, inputs)
    full.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{full.name}.", dir=full.parent))
    try:
        partial = work / "new"
        partial.mkdir()
        yield partial
        files = sorted(str(path.relative_to(partial)) for path in partial.rglob("*"))
        (partial / MARKER).write_text(json.dumps({"files": files}, indent=1) + "\n", "utf-8")
        check_target(target, inputs)  # minutes may have passed
        old = work / "old"
        if full.exists():
            full.rename(old)
        try:
            partial.rename(full)
        except BaseException:
            if old.exists():
                old.rename(full)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
