"""A profile's figure: what was held out, by bin, beside the profile and the Gaussian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hetero_plugin.errors.profile import Profile
from hetero_plugin.figures import backend

__all__ = ["draw"]

_MEASURES = (
    ("changed", "share of elements changed"),
    ("rms", "RMS of the error / RMS of the row"),
    ("bias", "mean / RMS of the row (+: away from zero)"),
)
_LEAST = 100  # elements of a bin that is drawn


def draw(profile: Profile, path: Path) -> bool:
    """Draws a row a table: share changed, RMS and mean by bin, of all that was held out in rows.

    Returns:
        Whether there was anything to draw: a profile without a report of `fit` has nothing.

    Raises:
        ImportError: matplotlib is missing.
        OSError: it can't be written.
    """
    rows = [row for row in profile.report.get("tables", []) if _held(row)]
    if not rows:
        return False
    pyplot = backend.pyplot("the figure needs")

    figure, axes = pyplot.subplots(
        len(rows), 3, figsize=(12, 2.5 * len(rows) + 0.6), layout="constrained", squeeze=False
    )
    by = {(one.kind, one.dtype, k): one for one in profile.tables for k in one.ks}
    for line, row in zip(axes, rows, strict=True):
        table = by[row["kind"], row["dtype"], row["k"]]
        bins = [one for one in _held(row) if one["elements"] >= _LEAST]
        for axis, (name, said) in zip(line, _MEASURES, strict=True):
            _panel(axis, table.edges, bins, name)
            axis.set_title(said, loc="left", fontsize=9)
        line[0].set_ylabel(f"{row['kind']}, K {row['k']}\n{row['dtype']}")
    for axis in axes[-1]:
        axis.set_xlabel("log2(power of two below |y| / RMS of the row)")
    axes[0][0].legend(fontsize=8)
    try:
        figure.savefig(path, dpi=110)
    finally:
        pyplot.close(figure)
    return True


def _held(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    held = row["held_out"]
    found = held.get("rows") or held.get("layers")
    return [] if found is None else list(found["bins"])


def _panel(axis: Any, edges: Sequence[float], bins: Sequence[Mapping[str, Any]], name: str) -> None:
    outer = [edges[0] - 0.5, *edges, edges[-1] + 0.5]
    x = np.array([(outer[one["bin"]] + outer[one["bin"] + 1]) / 2 for one in bins])
    n = np.array([one["elements"] for one in bins], float)
    seen = np.array([one["measured"][name] for one in bins])
    axis.plot(x, [one["profile"][name] for one in bins], color="C0", label="profile")
    axis.plot(x, [one["gaussian"][name] for one in bins], color="C1", ls="--", label="Gaussian")
    error = None
    if name == "changed":
        error = 2 * np.sqrt(seen * (1 - seen) / n)
    elif name == "bias":
        rms = np.array([one["measured"]["rms"] for one in bins])
        error = 2 * rms / np.sqrt(n)
    axis.errorbar(x, seen, yerr=error, fmt="o", ms=3, color="k", lw=0.8, label="held-out rows")
    if name == "bias":
        axis.axhline(0, color="0.8", lw=0.8)
        largest = float(np.abs(seen).max()) if len(seen) else 0.0
        axis.set_yscale("symlog", linthresh=max(largest / 100, 1e-12))
    elif (seen > 0).any():
        axis.set_yscale("log")
        axis.set_ylim(bottom=max(float(seen[seen > 0].min()) / 3, 1e-12))
