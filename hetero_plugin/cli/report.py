"""``hetero-noise report``: the report of a finished run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    run_dir: Annotated[Path, typer.Argument(help="Run folder with eval/ARM.json in it.")],
    allow_unattested: Annotated[
        bool,
        typer.Option("--allow-unattested", help="Show results without proof, marked as such."),
    ] = False,
) -> None:
    """Make report.json and report.html of a run anew.

    Exits with 1 and REFUSED, naming what failed, if some result's noise is not attested.
    """
    from hetero_plugin.attestation.attest import Refused
    from hetero_plugin.evaluation.report import build

    try:
        paths = build(run_dir, allow_unattested=allow_unattested)
    except Refused as error:
        print(error, file=sys.stderr)
        print(run_dir / "report.html", file=sys.stderr)
        raise SystemExit(1) from None
    for path in paths:
        print(path)
