"""The picture of a comparison: how far each operator is off, by layer and operator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hetero_plugin.figures import backend

__all__ = ["draw", "grid"]


def grid(found: Mapping[str, Any]) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Layers, operators, log2 of the ratio (NaN: none), and whether each is beyond.

    Operators outside the layers have a row of their own at the end.
    """
    sites = found["sites"]
    layers = sorted({row["layer"] for row in sites if row["layer"] is not None})
    names = [_operator(row) for row in sites]
    columns = list(dict.fromkeys(names))
    outside = any(row["layer"] is None for row in sites)
    rows = [str(layer) for layer in layers] + (["outside"] if outside else [])
    values = np.full((len(rows), len(columns)), np.nan)
    beyond = np.zeros(values.shape, bool)
    for row, name in zip(sites, names, strict=True):
        at = len(layers) if row["layer"] is None else layers.index(row["layer"])
        place = at, columns.index(name)
        if row["ratio"] is not None:
            values[place] = np.log2(np.clip(row["ratio"], 2.0**-6, 2.0**6))
        beyond[place] = row["beyond"]
    return rows, columns, values, beyond


def _operator(row: Mapping[str, Any]) -> str:
    name = str(row["name"])
    if row["layer"] is None:
        return name.removeprefix("model.")
    return name.split(f".{row['layer']}.", 1)[-1]


def draw(found: Mapping[str, Any], path: Path) -> None:
    """The ratios as a heat map; a cross where an operator is beyond the limit.

    Raises:
        ImportError: matplotlib is missing.
        OSError: it can't be written.
    """
    pyplot = backend.pyplot("the figure needs")

    rows, columns, values, beyond = grid(found)
    figure, axis = pyplot.subplots(
        figsize=(1.5 + 0.8 * len(columns), 1.8 + 0.28 * len(rows)), layout="constrained"
    )
    image = axis.imshow(
        np.ma.masked_invalid(values), aspect="auto", cmap="coolwarm", vmin=-3, vmax=3
    )
    y, x = np.nonzero(beyond)
    axis.plot(x, y, "x", color="k", ms=7, mew=1.6)
    axis.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_ylabel("layer")
    by = {row["by"] for row in found["sites"]} - {"nothing"}
    what = (
        "B's error / A's" if by == {"float64"} else "B's difference / the profile's, or error / A's"
    )
    axis.set_title(f"log2 of {what}; ×: beyond the limit", loc="left", fontsize=9)
    figure.colorbar(image, ax=axis)
    try:
        figure.savefig(path, dpi=110)
    finally:
        pyplot.close(figure)
