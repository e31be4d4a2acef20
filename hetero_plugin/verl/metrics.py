"""The metrics of a run, in verl's file logger's JSON lines: ``{"step": n, "data": {...}}``.

Each attempt at a run has a file of its own: ``metrics-1.jsonl`` of the first, and so on, and
``metrics.jsonl`` of the latest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["attempts", "by_step", "read_metrics"]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Complete lines of a metrics file, oldest first; [] while there is none."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


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
