"""``hetero-noise profile show``: what a profile holds, and how well it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    profile: Annotated[str, typer.Argument(help="A .profile file, or one that is shipped.")],
    figure: Annotated[Path | None, typer.Option(help="Draw it there, as .png.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write tables, figure and sentences there, as one .html.")
    ] = None,
) -> None:
    """Show a profile's tables, and how they and a Gaussian fit what was held out."""
    from hetero_plugin.cli.profile.tables import check_page, print_profile
    from hetero_plugin.config import ConfigError
    from hetero_plugin.errors.profile import load_profile
    from hetero_plugin.evaluation.report.profile import write as write_page
    from hetero_plugin.profile.fit.figure import draw

    check_page(page)
    found = load_profile(profile)
    print_profile(found)
    if figure is not None:
        if not draw(found, figure):
            raise ConfigError(f"{profile}: has no report of `profile fit`, so nothing to draw")
        print(figure)
    if page is not None:
        write_page(found, page)
        print(page)
