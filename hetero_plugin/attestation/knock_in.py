"""Knocking in: which names, switched on, change an engine's output; and how outputs compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def equal(one: np.ndarray, two: np.ndarray) -> bool:
    """Value for value; a NaN equals nothing, so that garbage never passes for clean."""
    return one.shape == two.shape and bool((one == two).all())


def effect(off: np.ndarray, output: np.ndarray) -> dict[str, float | None]:
    """Largest and RMS change in log-probability; None where it is not a number."""
    if off.shape != output.shape or not off.size:
        return {"max_abs": None, "rms": None}
    delta = output - off
    if not np.isfinite(delta).all():
        return {"max_abs": None, "rms": None}
    return {
        "max_abs": float(np.abs(delta).max()),
        "rms": float(np.sqrt(np.mean(delta * delta))),
    }


def difference(one: np.ndarray, two: np.ndarray) -> str:
    """How far two outputs are apart, in words."""
    largest = effect(one, two)["max_abs"]
    if largest is None:
        return f"outputs of shapes {one.shape} and {two.shape}, not all finite"
    return f"largest difference {largest:.3g} over {one.size} values"


def knock_in(
    names: Sequence[str],
    switch: Callable[[Sequence[str]], None],
    output: Callable[[], np.ndarray],
    off: np.ndarray,
    *,
    group: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Which of ``names`` change the output.

    Args:
        names: in the order of the forward pass.
        switch: turns these on and all others off.
        output: runs the engine, float64 [k].
        off: its output with all off.
        group: 1 proves each name by a pass of its own. A larger one tries halves of halves, down to
            groups of that many: a group that changes nothing is dead in all its members, for
            certain; one that changes something has at least one that lives.
        progress: called with the number of names done.

    Returns:
        A row for each name: ``name``, ``seen``, ``max_abs``, ``rms``; in groups also ``group``,
        how many names were on together; with an engine that raises, ``error``.
    """
    rows: list[dict[str, Any]] = []

    def settle(part: Sequence[str], row: dict[str, Any]) -> None:
        together = {} if group == 1 else {"group": len(part)}
        rows.extend({"name": name, **row, **together} for name in part)
        if progress is not None:
            progress(len(rows))

    def search(part: Sequence[str]) -> None:
        try:
            switch(part)
            found = output()
        except Exception as error:  # whatever the engine says of one, the others still count
            settle(part, {"seen": False, "error": f"{type(error).__name__}: {error}"[:300]})
            return
        # Garbage is not evidence: a site that turns the output into NaN has not been seen to work.
        finite = bool(np.isfinite(found).all())
        dead = equal(off, found)
        if len(part) > group and not dead:
            middle = len(part) // 2
            search(part[:middle])
            search(part[middle:])
        else:
            settle(part, {"seen": finite and not dead, **effect(off, found)})

    if group == 1:
        for name in names:
            search([name])
    elif names:
        search(list(names))
    return rows
