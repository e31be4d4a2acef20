"""Which elements a fit sees, and which it is judged by."""

from __future__ import annotations

import numpy as np

from hetero_plugin.profile.recording import SiteEntry

__all__ = ["EVERY", "PARTS", "held_layers", "roles", "size_of"]

EVERY = 4
"""Every fourth row and every fourth layer is held out."""
PARTS = ("rows", "layers")
_CLUSTERS = 4


def size_of(entry: SiteEntry) -> int:
    """What a table calls K: columns of the input of linear kinds, else of the output."""
    return entry.k if entry.kind in ("linear", "lm_head") else entry.n


def held_layers(layers: list[int | None]) -> set[int]:
    """Of the layers that a kind has at one K, every fourth; none of fewer than four."""
    there = sorted({layer for layer in layers if layer is not None})
    return set(there[EVERY - 1 :: EVERY])


def roles(rows: int, held: bool) -> tuple[np.ndarray, str, list[np.ndarray]]:
    """Rows that are fitted, and those that are held out.

    Args:
        rows: T.
        held: whether the whole layer is.

    Returns:
        bool [T] of rows to fit; which of `PARTS` the others are; those as bool [T] each, in
        quarters.
    """
    number = np.arange(rows)
    fitted = np.zeros(rows, bool) if held else number % EVERY != EVERY - 1
    quarter = number * _CLUSTERS // max(rows, 1)
    parts = [~fitted & (quarter == q) for q in range(_CLUSTERS)]
    return fitted, "layers" if held else "rows", parts
