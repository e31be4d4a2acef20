"""What is finished: a file a stage, with a hash of what went in and of every file that came out.

A finished stage is taken over only if its inputs are the same and its outputs are still what it
wrote; so an interrupted study goes on where it was, and a damaged one repeats what is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hetero_plugin.evaluation.files import write_text

__all__ = ["differences", "digest", "file_digest", "finish", "finished", "read"]


def digest(value: Any) -> str:
    """Short stable hash of JSON data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Settings that differ, as ``name: old there, new here``."""
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    else:
        yield f"{name}: {json.dumps(old)} there, {json.dumps(new)} here"


def read(path: Path) -> dict[str, Any] | None:
    """A stage's record, whatever its inputs were; None if there is none or it is cut."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def finished(path: Path, inputs: Any) -> dict[str, Any] | None:
    """The record of a finished stage, if its inputs and outputs are still the same.

    Args:
        path: of the record; outputs are named from its folder.
        inputs: JSON data of what decides the result.
    """
    record = read(path)
    if record is None or record.get("inputs") != digest(inputs):
        return None
    outputs = record.get("outputs")
    if not (isinstance(outputs, dict) and isinstance(record.get("result"), dict)):
        return None
    if not isinstance(record.get("seconds"), int | float):
        return None
    for name, wanted in outputs.items():
        made = path.parent / name
        if not made.is_file() or file_digest(made) != wanted:
            return None
    return record


def finish(
    path: Path, inputs: Any, result: Any, outputs: Iterable[Path], seconds: float
) -> dict[str, Any]:
    """Records a stage as finished, with the hashes of the files that it wrote.

    Args:
        path: of the record.
        inputs: as for `finished`.
        result: JSON data for people and for later stages.
        outputs: files.
        seconds: that it took.
    """
    record = {
        "inputs": digest(inputs),
        "result": result,
        "outputs": {
            os.path.relpath(made, path.parent): file_digest(made) for made in sorted(outputs)
        },
        "seconds": round(seconds, 3),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_text(path, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return record
