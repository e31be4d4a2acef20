"""Tables of sensitivity maps and of the dial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from hetero_plugin.cli.screen import stdout

SHOWN = 20


def _span(row: Mapping[str, float]) -> str:
    return f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def print_sensitivity(found: Mapping[str, Any]) -> None:
    """The largest effects of a map, its floor, and the list to keep clean."""
    console = stdout()
    table = Table(
        title=f"{found['predicted_tokens']:,} tokens in {found['windows']} windows, "
        f"{found['engine']}, {found['dtype']}",
        title_justify="left",
    )
    table.add_column("rank", justify="right")
    table.add_column("site alone", overflow="fold")
    for heading in ("KL", "Δ loss", "share"):
        table.add_column(heading, justify="right")
    for row in found["sites"][:SHOWN]:
        table.add_row(
            f"{row['rank']} ({row['rank_low']}–{row['rank_high']})",
            row["name"],
            _span(row["kl"]),
            f"{row['loss']['value']:.3g}",
            f"{100 * row['share']:.1f} %",
        )
    console.print(table)
    more = len(found["sites"]) - SHOWN
    lines = [f"and {more} sites more, in the files"] if more > 0 else []
    lines += [
        f"all sites: KL {_span(found['all']['kl'])}; floor {_span(found['floor']['kl'])}",
        "nats per token; brackets: 95 % by bootstrap over windows and draws",
    ]
    within = sum(row["within_floor"] for row in found["sites"])
    if within:
        lines.append(f"{within} sites are within the floor: their order says nothing")
    suggestion = found["suggestion"]
    if suggestion is None:
        lines.append("all sites together are within the floor: there is nothing to keep clean")
    else:
        lines.append(suggestion["sentence"])
    console.print("\n".join(lines), highlight=False)


def print_dial(found: Mapping[str, Any]) -> None:
    """The scale with its interval, and the measures there and in draws that were not seen."""
    console = stdout()
    scale, want = found["scale"], found["want"]
    low, high = ("?" if scale[key] is None else f"{scale[key]:.4g}" for key in ("low", "high"))
    table = Table(
        title=f"scale {scale['value']:.6g} [{low}, {high}] gives {want['measure']} = "
        f"{want['value']:g}",
        title_justify="left",
    )
    table.add_column("measure")
    heads = (f"{found['draws']} draws of the search", "as many fresh draws", "floor")
    for heading in heads:
        table.add_column(heading, justify="right")
    for name, row in found["measures"].items():
        floor = found["floor"].get(name)
        table.add_row(
            name,
            _span(row),
            _span(found["in_fresh_draws"][name]),
            "–" if floor is None else _span(floor),
        )
    console.print(table)
    record = found["attestation"]
    lines = [
        "scale for each draw alone: "
        + ", ".join("?" if one is None else f"{one:.4g}" for one in scale["by_draw"]),
        f"{found['predicted_tokens']:,} tokens in {found['windows']} windows, {found['engine']}, "
        f"{found['dtype']}; brackets: 95 % by bootstrap over windows and draws; {record['seen']} "
        f"of {record['of']} sites attested",
    ]
    if "?" in (low, high):
        lines.append("a bound that is ? lies beyond the scales that were tried")
    if not found["monotone"]:
        lines.append(
            "the measure falls somewhere as the scale grows: there may be another such scale"
        )
    console.print("\n".join(lines), highlight=False)
