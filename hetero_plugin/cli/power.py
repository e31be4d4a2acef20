"""``hetero-noise power``: what a number of questions and training seeds can show, before a run."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hetero_plugin.config import ConfigError


def command(
    n: Annotated[int, typer.Option(help="Questions.", min=1)] = 1319,
    discordance: Annotated[
        float,
        typer.Option(help="Share of questions whose outcome differs between the two systems."),
    ] = 0.10,
    margin: Annotated[float, typer.Option(help="Of equivalence, a share.")] = 0.02,
    losses: Annotated[
        str, typer.Option(help="True losses to look at, shares with commas between.")
    ] = "0,0.01,0.02,0.03,0.05",
    seeds: Annotated[
        int | None, typer.Option(help="Training runs of each of two methods.", min=2)
    ] = None,
    seed_sd: Annotated[
        float, typer.Option(help="Standard deviation of true accuracy over training seeds.")
    ] = 0.005,
    legacy_verdict: Annotated[
        bool,
        typer.Option("--legacy-verdict", help="Error rates of the old rule (200 questions) too."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Say what a number of questions can show: differences, equivalence, and with seeds methods.

    10 % of GSM8K's answers flipping is usual at 5 % error; a run's report shows its own share.
    """
    from hetero_plugin.evaluation.power import outlook

    if not 0 < discordance <= 1 or not 0 < margin < 1 or not 0 <= seed_sd < 1:
        raise ConfigError(
            f"--discordance {discordance}, --margin {margin}, --seed-sd {seed_sd}: each is a share "
            "from 0 to 1, such as 0.10, 0.02 and 0.005"
        )
    try:
        found = outlook(
            n,
            discordance,
            margin,
            losses=[float(part) for part in losses.split(",") if part.strip()],
            seeds=seeds,
            seed_sd=seed_sd,
        )
    except ValueError as error:
        raise ConfigError(f"--losses {losses!r}: {error}") from None
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from hetero_plugin.cli.screen import print_outlook

    print_outlook(found, legacy=legacy_verdict)
