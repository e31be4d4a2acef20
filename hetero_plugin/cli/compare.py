"""``hetero-noise compare``: two runs of anybody's harness, item by item."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    first: Annotated[
        str,
        typer.Argument(
            help="What is compared with: lm-eval's samples_*.jsonl, an Inspect log, verl's "
            "validation dump, or eval's results and a level, as eval.json@0.05."
        ),
    ],
    second: Annotated[str, typer.Argument(help="The other run.")],
    margin: Annotated[
        float, typer.Option(help="Of the equivalence test, chosen before the runs were seen.")
    ] = 0.02,
    metric: Annotated[str | None, typer.Option(help="Which metric or scorer counts.")] = None,
    filter_name: Annotated[
        str | None, typer.Option("--filter", help="Which of lm-eval's filters.")
    ] = None,
    chance: Annotated[float, typer.Option(help="Accuracy of guessing.")] = 0.0,
    common: Annotated[
        bool, typer.Option("--common", help="Compare what both have, if items differ.")
    ] = False,
    take_first: Annotated[
        bool, typer.Option("--first", help="Of several answers to an item take the first.")
    ] = False,
    legacy_verdict: Annotated[
        bool, typer.Option("--legacy-verdict", help="Show the old rule's word too.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the page there, as .json and .html.")
    ] = None,
) -> None:
    """Compare two runs, paired by item: flips, McNemar, equivalence, power, a verdict."""
    from hetero_plugin.cli.screen import print_pair
    from hetero_plugin.evaluation.harness.compare import compare, write_page
    from hetero_plugin.evaluation.harness.runs import read_run

    runs = [
        read_run(given, metric=metric, filter_name=filter_name, first=take_first)
        for given in (first, second)
    ]
    found = compare(runs[0], runs[1], margin=margin, chance=chance, common=common)
    print_pair(found, legacy=legacy_verdict)
    if out is not None:
        for path in write_page(found, out):
            print(path)
