"""What one check found: claims that hold or don't, goals met or missed, numbers to know."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PASSED, FAILED, SHORT, NOTE = "passed", "failed", "short of the goal", "measured"


@dataclass
class Size:
    """How large a run is, and where its files are.

    ``rehearsal``: tiny models on a CPU. ``out`` is the folder of the whole run: ``models``,
    ``kept`` (arrays and numbers that later checks compare with) and vLLM's compile cache.
    """

    rehearsal: bool
    out: Path

    @property
    def device(self) -> str:
        return "cpu" if self.rehearsal else "cuda"

    def keep(self, name: str, **arrays: Any) -> None:
        """Saves arrays for later checks."""
        folder = self.out / "kept"
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{name}.npz", **arrays)

    def kept(self, name: str) -> dict[str, np.ndarray] | None:
        """What an earlier check kept under that name; None if it did not get so far."""
        path = self.out / "kept" / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as found:
            return dict(found)


@dataclass
class Report:
    """The findings of a check, in the order in which they were made."""

    rehearsal: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)

    def _add(self, name: str, status: str, detail: str, value: Any = None) -> None:
        self.rows.append({"name": name, "status": status, "detail": detail, "value": value})
        print(f"  {status}: {name}: {detail}", flush=True)

    def hold(self, name: str, holds: bool, detail: str, value: Any = None) -> None:
        """Something that must be so; the check fails where it is not, and goes on."""
        self._add(name, PASSED if holds else FAILED, detail, value)

    def goal(self, name: str, value: float, limit: float, *, least: bool = False) -> None:
        """A number with a goal: at most ``limit``, or with ``least`` at least that.

        Goals are those of a GPU and of real sizes; in a rehearsal there is a number and no goal.
        """
        if self.rehearsal:
            self.note(name, float(value))
            return
        met = value >= limit if least else value <= limit
        self._add(
            name,
            PASSED if met else SHORT,
            f"{value:.3f} (goal: {'at least' if least else 'at most'} {limit})",
            value,
        )

    def note(self, name: str, value: Any) -> None:
        """A number that nothing depends on."""
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        self._add(name, NOTE, shown, value)

    @property
    def status(self) -> str:
        found = {row["status"] for row in self.rows}
        if FAILED in found or not found - {NOTE}:  # a check that claimed nothing has not passed
            return FAILED
        return SHORT if SHORT in found else PASSED

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"status": self.status, "findings": self.rows}, indent=2))


def rms(values: Any) -> float:
    """Root of the mean square, in float64."""
    return float(np.sqrt(np.mean(np.square(np.asarray(values, dtype=np.float64)))))
