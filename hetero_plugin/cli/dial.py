"""``hetero-noise dial``: the scale that gives a mismatch of a wanted size."""

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
    want: Annotated[
        str, typer.Option(help="kl=0.015, mean-dlogp=0.011 (nats a token) or ratio-out=0.075.")
    ],
    preset: Annotated[str | None, typer.Option(help="Name of a preset: which sites.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Specification: a .yaml or .json file, or JSON text.")
    ] = None,
    largest: Annotated[float, typer.Option(help="Scale that is tried.")] = 1.0,
    draws: Annotated[int, typer.Option(help="Of the noise, all at each scale.", min=1)] = 4,
    tokens: Annotated[int, typer.Option(help="Of the text's beginning; bounds the cost.")] = 512,
    context: Annotated[int, typer.Option(help="Tokens of a window of text.")] = 32,
    seed: Annotated[int | None, typer.Option(help="Of the noise; default: the spec's.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float32, …")] = "auto",
    engine: Annotated[str, typer.Option(help="hf (eager) or vllm (compiled).")] = "hf",
    out: Annotated[
        Path | None, typer.Option(help="Write the result there, as .json, and a figure beside it.")
    ] = None,
) -> None:
    """Find the scale at which a model's mismatch with itself has a wanted size.

    Every rule of the specification is set to one scale, in one model, in Hugging Face (eager)
    or vLLM (compiled), attested first: exits with 1 and REFUSED if a site can't be shown to act.
    """
    from hetero_plugin.cli.screen import Bars
    from hetero_plugin.cli.tables import print_dial
    from hetero_plugin.evaluation.dial.run import dial_spec, find_in_checkpoint
    from hetero_plugin.evaluation.dial.search import Want
    from hetero_plugin.evaluation.fidelity.session import Asked

    wanted = Want.parse(want)
    spec = dial_spec(spec_from_options(preset, config, None), largest, seed)
    with Bars() as bars:
        found = find_in_checkpoint(
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
            wanted,
            largest=largest,
            out=out,
            progress=bars.update,
        )
    print_dial(found)
    if out is not None:
        print(out)
        print(out.with_suffix(".png"))
