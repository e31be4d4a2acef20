"""What a comparison of machines shows on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from hetero_plugin.cli.screen import stdout

SHOWN = 20


def show(found: Mapping[str, Any]) -> None:
    """The operators that are furthest off, and the verdict."""
    console = stdout()
    table = Table(title="operators, the furthest off first", title_justify="left")
    table.add_column("operator", overflow="fold")
    for heading in ("changed", "error of A, B", "ratio", "sure", "by"):
        table.add_column(heading, justify="right")
    table.add_column("beyond")
    table.add_column("likely cause", overflow="fold")
    rows = {row["name"]: row for row in found["sites"]}
    for name in found["ranked"][:SHOWN]:
        row = rows[name]
        error, ratio = row["error"], row["ratio"]
        cause = row["cause"]["name"] if row["cause"] else (row["floor"] or "")
        table.add_row(
            name,
            f"{100 * row['changed']:.3g} %",
            "–" if error is None else f"{error[0]:.3g}, {error[1]:.3g}",
            "–" if ratio is None else f"{ratio:.3g}",
            f"{row['sure']:.3g}",
            row["by"],
            "YES" if row["beyond"] else "no",
            cause,
        )
    console.print(table)
    console.print(
        "errors: RMS against float64, 1 is that of rounding alone; sure: less three standard errors"
        f"\n{found['sentence']}",
        highlight=False,
    )
