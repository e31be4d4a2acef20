"""Writes docs/results.md from what studies and evaluations left: ``python -m scripts.results``.

    python -m scripts.results runs/matrix/miniature/report.md runs/real/fidelity.md

Each file is a finding with its own command, numbers and limits, as the package wrote it; nothing is
added here but the order and a title.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HEAD = """# Results

What we found, written by `python -m scripts.results` from the files of the runs. Each part names
its study, seeds, questions, intervals and what it can't say; no claim goes beyond them.
"""


def main(
    parts: Annotated[list[Path], typer.Argument(help="Markdown of the runs, in order.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("docs/results.md"),
) -> None:
    """Put findings on one page."""
    missing = [str(path) for path in parts if not path.is_file()]
    if missing:
        raise typer.BadParameter(f"there is no file {', '.join(missing)}; run its study first")
    texts = [path.read_text(encoding="utf-8").strip() for path in parts]
    out.write_text("\n\n".join([HEAD.strip(), *texts]) + "\n", encoding="utf-8")
    typer.echo(out)


if __name__ == "__main__":
    typer.run(main)
