"""The metrics of a run, in verl's file logger's JSON lines: ``{"step": n, "data": {...}}``.

Each attempt at a run has a file of its own: ``metrics-1.jsonl`` of the first, and so on, and
``metrics.jsonl`` of the latest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError

__all__ = ["attempts", "by_step", "read_metrics"]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Complete lines of a metrics file, oldest first; [] while there is none.

    Raises:
        ConfigError: a line that is not one of metrics, by its number.
    """
    if not path.is_file():
        return []
    # Line by line: bytes that are no text are in one of them, and the last may be half written.
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_row(path, number, line) for number, line in enumerate(lines, start=1)]


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if int(row["step"]) == row["step"] and isinstance(row["data"], dict):
            return dict(row)
        why = "its step is no whole number, or its data no mapping"
    except (ValueError, TypeError, KeyError) as error:
        why = f"{type(error).__name__}: {error}"
    raise ConfigError(
        f'{path}, line {number}: not a line of metrics, {{"step": 1, "data": {{...}}}} ({why}). '
        "Put back what verl wrote, or remove the run's folder, so that it is made again."
    )


def attempts(path: Path) -> list[Path]:
    """The metrics files of all attempts, oldest first; ``path``: of the latest."""

    def attempt(one: Path) -> int:
        number = one.stem.rpartition("-")[2]
        return int(number) if number.isdigit() else 0

    return [*sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"), key=attempt), path]


def by_step(path: Path) -> dict[int, dict[str, Any]]:
    """Metrics by step of all attempts; a later attempt's word on a step counts."""
    found: dict[int, dict[str, Any]] = {}
    for one in attempts(path):
        for row in read_metrics(one):
            found.setdefault(int(row["step"]), {}).update(row["data"])
    return dict(sorted(found.items()))
