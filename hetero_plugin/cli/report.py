"""``hetero-noise report``: the report of a finished run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hetero_plugin.config import ConfigError


def command(
    results: Annotated[
        list[Path],
        typer.Argument(help="Run folder with eval/ARM.json in it, or results files of eval."),
    ],
    allow_unattested: Annotated[
        bool,
        typer.Option("--allow-unattested", help="Show results without proof, marked as such."),
    ] = False,
    legacy_verdict: Annotated[
        bool,
        typer.Option(
            "--legacy-verdict",
            help="Show the old rule too (200 questions, <1, 1-3, >3 points), with its error rates.",
        ),
    ] = False,
) -> None:
    """Make report.json, .html and .md of a run anew, or NAME-report.* of results files.

    Exits with 1 and REFUSED, naming what failed, if some result's noise is not attested.
    """
    from hetero_plugin.attestation import Refused
    from hetero_plugin.evaluation.report.page import build, build_of_files

    first = results[0]
    one_run = len(results) == 1 and (first.is_dir() or first.suffix != ".json")
    folders = [path for path in results if path.is_dir()]
    if folders and not one_run:
        raise ConfigError(f"{folders[0]}: is a folder; give one run, or results files alone.")
    try:
        if one_run:
            paths = build(first, allow_unattested=allow_unattested, legacy=legacy_verdict)
        else:
            paths = build_of_files(
                results, allow_unattested=allow_unattested, legacy=legacy_verdict
            )
    except Refused as error:
        page = first / "report.html" if one_run else first.with_name(f"{first.stem}-report.html")
        print(error, file=sys.stderr)
        print(page, file=sys.stderr)
        raise SystemExit(1) from None
    for path in paths:
        print(path)
