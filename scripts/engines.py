"""Verdicts of the same evaluation in two engines, side by side, in Markdown.

    python -m scripts.engines runs/arms-vllm runs/arms-hf [--out agree.md]

Each folder is what one `hetero-noise eval --model A --model B … --out FOLDER` wrote. The verdicts
are those of the package's report (first draw, Holm over the page); beside them stand the
differences over all draws with their intervals. Exits with 1 where two verdicts differ.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hetero_plugin.evaluation import results
from hetero_plugin.evaluation.report import page, words

Report = Mapping[str, Any]


def reported(folder: Path) -> dict[str, Any]:
    """The report's data of all results in a folder, written beside them.

    Raises:
        ResultError: there are none, or they can't be compared.
        Refused: the noise of one is not attested.
    """
    paths = [path for path in sorted(folder.glob("*.json")) if not path.stem.endswith("-report")]
    if not paths:
        raise results.ResultError(f"{folder}: holds no results of hetero-noise eval")
    written, _ = page.build_of_files(paths)
    return dict(results.read_json(written))


def compare(reports: Mapping[str, Report]) -> tuple[str, int]:
    """Both reports' verdicts in Markdown, and how many differ.

    Args:
        reports: two, by the engine's name.

    Raises:
        ValueError: they compare other models or levels.
    """
    names = list(reports)
    rows = {name: {_key(row): row for row in reports[name]["comparisons"]} for name in names}
    one, two = rows.values()
    if set(one) != set(two):
        missing = sorted(set(one) ^ set(two))
        raise ValueError(f"not the same comparisons in both: {missing[0]} and {len(missing) - 1} "
                         "more are in one alone")  # fmt: skip
    lines = [_line(["compared", *(f"{name}: points, verdict" for name in names), "agree"]),
             _line(["---"] * 4)]  # fmt: skip
    apart = 0
    for key, row in one.items():
        same = row["verdict"] == two[key]["verdict"]
        apart += not same
        cells = [
            f"{words.points(found['difference'])} {words.interval(found)} {found['verdict']}"
            for found in (row, two[key])
        ]
        lines.append(_line([_label(key), *cells, "yes" if same else "NO"]))
    text = [
        f"{len(one) - apart} of {len(one)} verdicts agree (n = "
        f"{', '.join(str(reports[name]['n']) for name in names)}; first draw; Holm over the page).",
        "\n".join(lines),
    ]
    for name in names:
        text.append(f"{name}, over all draws:")
        text.append("\n".join(f"- {row['sentence']}." for row in reports[name]["sources"]))
        floors = [f"- {row['sentence']}." for row in reports[name]["floors"].values()]
        text.append("\n".join(floors))
        seen = [f"{arm['label']} {arm['seen']} of {arm['of']}"
                for arm in reports[name]["attestation"].values()]  # fmt: skip
        text.append(f"{name}, sites attested: {', '.join(seen)}.")
    return "\n\n".join(part for part in text if part) + "\n", apart


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, float]:
    return row["type"], row["first"], row["second"], row["level"]


def _label(key: tuple[str, str, str, float]) -> str:
    kind, first, second, level = key
    against = "its clean answers" if kind == "noise" else first
    return f"{second} against {against}, {words.level(level)}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(
    first: Annotated[Path, typer.Argument(help="Folder of one engine's results.")],
    second: Annotated[Path, typer.Argument(help="Folder of the other's.")],
    out: Annotated[Path | None, typer.Option(help="Write it there too.")] = None,
) -> None:
    """Compare the verdicts of two engines."""
    text, apart = compare({folder.name: reported(folder) for folder in (first, second)})
    typer.echo(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    raise typer.Exit(int(apart > 0))


if __name__ == "__main__":
    try:
        typer.run(main)
    except ValueError as error:
        sys.exit(f"error: {error}")
