"""Tables of a profile on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from hetero_plugin.cli.screen import stdout
from hetero_plugin.config import ConfigError
from hetero_plugin.errors.profile import Profile
from hetero_plugin.evaluation import files


def check_page(page: Path | None) -> None:
    """That a page can be written where it is asked for, if it is.

    Raises:
        ConfigError: it can't, or the name does not end in .html.
    """
    if page is None:
        return
    if page.suffix != ".html":
        raise ConfigError(f"--page {page}: it should end in .html")
    files.check_target(page, "--page")


def print_profile(profile: Profile) -> None:
    """What it is of, a row a table, and the report's sentences."""
    console = stdout()
    lines = [f"{profile.name}: sha256 {profile.digest}"]
    for side in ("a", "b"):
        made = profile.made_from.get(side)
        if made:
            machine = made.get("machine", {})
            device = machine.get("device", "unknown device")
            lines.append(f"{side.upper()}: {made['engine']}, {made['variant']}, {device}")
    console.print("\n".join(lines), highlight=False)
    rows = profile.report.get("tables", [])
    if not rows:
        console.print(f"{profile.contents}\nno report of `profile fit` is in it", highlight=False)
        return
    console.print(_tables(rows))
    for text in profile.report.get("sentences", []):
        console.print(text, highlight=False)


def _tables(rows: list[Mapping[str, Any]]) -> Table:
    table = Table(title="by kind, dtype and K", title_justify="left")
    table.add_column("table")
    for heading in (
        "elements",
        "changed",
        "bias, ulps",
        "RMS / row's",
        "Gaussian's scale",
        "drawn anew",
        "of all error",
        "held-out bins within 10 %",
        "better than Gaussian",
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        held = [one for one in row["held_out"].values() if one is not None]
        within = [one["within"]["profile"] for one in held]
        table.add_row(
            f"{row['kind']} {row['dtype']} K {row['k']}",
            f"{row['elements']:,}",
            f"{100 * row['changed']:.3g} %",
            f"{row['bias_ulps']:.2g}",
            f"{row['rms_of_row']:.2g}",
            f"{row['gaussian_scale']:.2g}",
            f"{100 * row['fresh']:.0f} %",
            f"{100 * row['share_of_squared_error']:.0f} %",
            ", ".join(f"{one['all']} of {one['judged']}" for one in within) or "–",
            ", ".join("yes" if one["better"] else "no" for one in held) or "–",
        )
    return table
