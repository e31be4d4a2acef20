"""The figure of docs/pairs.md: how often an element is changed, by its size, in each profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hetero_plugin.errors.profile import Profile, Table
from hetero_plugin.figures import backend
from hetero_plugin.profile.fit.tables import moments

_LEAST = 1000
"""Elements of a bin that is drawn."""


def _largest(profile: Profile) -> Table:
    """Of a profile the table of the kind that is named first, at its largest K."""
    kinds = [table for table in profile.tables if table.kind in ("linear", "norm")]
    linear = [table for table in kinds if table.kind == "linear"] or kinds
    return max(linear, key=lambda table: table.ks)


def draw(profiles: Mapping[str, Profile], path: Path) -> None:
    """Draws a line a profile, of its linear layers at the largest K, else of its norms.

    Args:
        profiles: by name.
        path: an .svg.
    """
    pyplot = backend.pyplot("the figure of the pairs needs")
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hetero", "font.size": 9}):
        figure, axis = pyplot.subplots(figsize=(7.2, 3.8), layout="constrained")
        for name, profile in profiles.items():
            table = _largest(profile)
            outer = np.array([table.edges[0] - 0.5, *table.edges, table.edges[-1] + 0.5])
            n = np.array([one.n for one in table.bins])
            middle, share = (outer[:-1] + outer[1:]) / 2, moments(table)["changed"]
            shown = (n >= _LEAST) & (share > 0)
            kind = f"{table.kind} K {table.ks[-1]}"
            axis.plot(middle[shown], share[shown], label=f"{name}, {kind}", lw=1.4)
        axis.set_yscale("log")
        axis.set_xlabel("log2(power of two below |y| / RMS of the row)")
        axis.set_title("share of elements that are changed", loc="left", fontsize=9)
        axis.legend(fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
