"""Writes docs/results.md from what studies and evaluations left: ``python -m scripts.results``.

    python -m scripts.results runs/matrix/miniature/report.md --real runs/real

Each file is a finding with its own command, numbers and limits, as the package wrote it; a folder
given with ``--real`` holds what eval, fidelity, sensitivity, dial and dose wrote, of which one is
made. Nothing is added here but the order, a title and what ``--note`` says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hetero_plugin.evaluation.records import ResultError
from scripts.real import section

HEAD = """# Results

What we found, written by `python -m scripts.results` from the files of the runs. Each part names
its study, seeds, questions, intervals and what it can't say; no claim goes beyond them.
"""


def main(
    parts: Annotated[
        list[Path] | None, typer.Argument(help="Markdown of the runs, in order.")
    ] = None,
    real: Annotated[
        list[str] | None,
        typer.Option(help="FOLDER or TITLE=FOLDER of results' files; may be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("docs/results.md"),
    note: Annotated[
        list[str] | None, typer.Option(help="What a reader of it has to know first; repeatable.")
    ] = None,
) -> None:
    """Put findings on one page."""
    if not parts and not real:
        raise typer.BadParameter("give Markdown of runs, or --real FOLDER")
    missing = [str(path) for path in parts or () if not path.is_file()]
    if missing:
        raise typer.BadParameter(f"there is no file {', '.join(missing)}; run its study first")
    texts = [path.read_text(encoding="utf-8").strip() for path in parts or ()]
    for one in real or ():
        title, _, folder = one.rpartition("=")
        try:
            texts.append(section(Path(folder), title or None).strip())
        except (ResultError, ValueError, KeyError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise typer.BadParameter(f"--real {one}: {what}") from None
    out.write_text("\n\n".join([HEAD.strip(), *(note or ()), *texts]) + "\n", encoding="utf-8")
    typer.echo(out)


if __name__ == "__main__":
    typer.run(main)
