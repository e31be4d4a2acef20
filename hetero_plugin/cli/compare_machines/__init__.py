"""``hetero-noise compare-machines``: a bug, or the floor of two correct machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    a: Annotated[Path, typer.Argument(help="Recording of one machine.")],
    b: Annotated[Path, typer.Argument(help="Recording of the other, on the first one's inputs.")],
    profile: Annotated[
        str | None,
        typer.Option(help="A profile of the two as they should be: what they may differ by."),
    ] = None,
    limit: Annotated[
        float, typer.Option(help="Of one machine's error over the other's, or the profile's.")
    ] = 1.5,
    out: Annotated[
        Path | None, typer.Option(help="Write the result there, as .json, and a figure beside it.")
    ] = None,
) -> None:
    """Find the first operator that differs by more than two correct machines would, and why.

    Each machine's error against float64 is compared, or their difference with a profile. Exits with
    1 if an operator is beyond the limit.
    """
    from hetero_plugin.cli.compare_machines.shown import show
    from hetero_plugin.cli.screen import Bars
    from hetero_plugin.config import ConfigError
    from hetero_plugin.errors.profile import load_profile
    from hetero_plugin.evaluation import files
    from hetero_plugin.profile.compare.figure import draw
    from hetero_plugin.profile.compare.run import compare
    from hetero_plugin.profile.recording import Recording

    if out is not None:
        if out.suffix != ".json":
            raise ConfigError(f"--out {out}: it should end in .json; the figure lies beside it")
        files.check_target(out)
    floor = None if profile is None else load_profile(profile)
    with Recording.open(a) as one, Recording.open(b) as two, Bars() as bars:
        found = compare(one, two, profile=floor, limit=limit, progress=bars.update)
    show(found)
    if out is not None:
        picture = out.with_suffix(".png")
        files.write_json(out, found)
        draw(found, picture)
        print(out, picture, sep="\n")
    if found["first"] is not None:
        raise typer.Exit(1)
