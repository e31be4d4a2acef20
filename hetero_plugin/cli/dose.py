"""``hetero-noise dose``: a curve over levels of error, and the level at which so much is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="What eval or fidelity wrote: of 5 levels or more, or files of one format each."
        ),
    ],
    points: Annotated[
        float | None, typer.Option(help="Of accuracy that are lost; default: 2. For eval's.")
    ] = None,
    kl: Annotated[
        float | None, typer.Option(help="Nats a token that are reached. For fidelity's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the fit there, as .json, and a figure beside it.")
    ] = None,
) -> None:
    """Say at which level of error accuracy has lost so many points, or KL has reached a size.

    Several files are a sequence of number formats of weights, by the size of each one's own error.

    From results that exist. Exits with 1 and REFUSED if their noise is not attested.
    """
    from hetero_plugin.evaluation.dose.page import read, read_sequence, write

    one = len(results) == 1
    found = read(results[0], points, kl) if one else read_sequence(results, points, kl)
    for point in found["points"]:
        span = f"{point['value']:.4g} [{point['low']:.4g}, {point['high']:.4g}]"
        print(f"{found['kind']} at {100 * point['level']:.4g} %: {span}")
    print(found["sentence"])
    if out is not None:
        print(out, write(out, found), sep="\n")
