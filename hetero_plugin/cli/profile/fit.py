"""``hetero-noise profile fit``: from two recordings to a profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    a: Annotated[Path, typer.Argument(help="Recording of the machine that you compute on.")],
    b: Annotated[Path, typer.Argument(help="Recording of the machine that is to be imitated.")],
    out: Annotated[Path, typer.Option(help="The profile, a file that ends in .profile.")],
    name: Annotated[str | None, typer.Option(help="Of the profile; default: the file's.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="The checkpoint: with its weights, known matrix units are tried on linear layers."
        ),
    ] = None,
    tail: Annotated[
        float | None,
        typer.Option(help="Refuse where fewer elements are there than this probability needs."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Where to draw it; default: beside the profile, as .png.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write tables, figure and sentences there, as one .html.")
    ] = None,
    compact: Annotated[
        bool,
        typer.Option(
            "--compact",
            help="A small file: kinds in which the machines agree are left out, digits that mean "
            "nothing too.",
        ),
    ] = False,
) -> None:
    """Fit how the results of machine B differ from those of machine A.

    Every fourth row and every fourth layer is held out; what the profile says of them is told
    beside a Gaussian of the same size and beside nothing.
    """
    from hetero_plugin.cli.profile.tables import check_page, print_profile
    from hetero_plugin.cli.screen import Bars
    from hetero_plugin.config import ConfigError
    from hetero_plugin.evaluation import files
    from hetero_plugin.evaluation.report.profile import write as write_page
    from hetero_plugin.profile.fit.compact import compacted
    from hetero_plugin.profile.fit.figure import draw
    from hetero_plugin.profile.fit.run import fit
    from hetero_plugin.profile.recording import Recording

    if out.suffix != ".profile":
        raise ConfigError(f"--out {out}: it should end in .profile")
    files.check_target(out)
    check_page(page)
    picture = figure if figure is not None else out.with_suffix(".png")
    with Recording.open(a) as one, Recording.open(b) as two, Bars() as bars:
        made = fit(one, two, name=name or out.stem, model=model, tail=tail, progress=bars.update)
    if compact:
        made = compacted(made)
    made.write(out, dense=compact)
    print_profile(made)
    print(out)
    if draw(made, picture):
        print(picture)
    if page is not None:
        write_page(made, page)
        print(page)
