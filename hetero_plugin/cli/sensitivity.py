"""``hetero-noise sensitivity``: what error at each site alone does, on a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hetero_plugin.cli.checkpoint import fetched
from hetero_plugin.cli.options import spec_from_options


def command(
    model: Annotated[
        Path, typer.Option(help="Folder of a clean Hugging Face checkpoint, or a name on the hub.")
    ],
    text: Annotated[Path, typer.Option(help="A text file, UTF-8.")],
    out: Annotated[Path, typer.Option(help="Folder of the map; one that is there goes on.")],
    preset: Annotated[str | None, typer.Option(help="Name of a preset: which sites.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Specification: a .yaml or .json file, or JSON text.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Of every rule; default: their own.")] = None,
    budget: Annotated[
        str, typer.Option(help="Sites to keep clean: a number, or the share of KL to recover.")
    ] = "60%",
    all_but_one: Annotated[
        bool, typer.Option(help="Measure also each site off, all others on: twice the passes.")
    ] = True,
    tokens: Annotated[int, typer.Option(help="Of the text's beginning; bounds the cost.")] = 512,
    context: Annotated[int, typer.Option(help="Tokens of a window of text.")] = 32,
    draws: Annotated[int, typer.Option(help="Of the noise, a pass each.", min=1)] = 1,
    seed: Annotated[int | None, typer.Option(help="Of the noise; default: the spec's.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float32, …")] = "auto",
    engine: Annotated[str, typer.Option(help="hf (eager) or vllm (compiled).")] = "hf",
) -> None:
    """Map where a model breaks: KL and loss with error at each site alone, and what to keep clean.

    Through the scale table of one model, a forward pass a site, in Hugging Face (eager) or vLLM
    (compiled), attested first: exits with 1 and REFUSED if a site can't be shown to act. An
    interrupted map goes on with the same command.
    """
    from hetero_plugin.cli.screen import Bars
    from hetero_plugin.cli.tables import print_sensitivity
    from hetero_plugin.evaluation.fidelity.session import Asked
    from hetero_plugin.evaluation.sensitivity.page import NAMES
    from hetero_plugin.evaluation.sensitivity.ranking import Budget
    from hetero_plugin.evaluation.sensitivity.run import measure_checkpoint, sensitivity_spec

    wanted = Budget.parse(budget)
    spec = sensitivity_spec(spec_from_options(preset, config, scale), None, seed)
    with Bars() as bars:
        found = measure_checkpoint(
            Asked(
                fetched(model),
                text,
                spec,
                draws=draws,
                dtype=dtype,
                tokens=tokens,
                context=context,
                engine=engine,
            ),
            out,
            budget=wanted,
            all_but_one=all_but_one,
            progress=bars.update,
        )
    print_sensitivity(found)
    for name in NAMES:
        print(out / name)
