"""``hetero-noise dial``: the scale that gives a mismatch of a wanted size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hetero_plugin.cli.checkpoint import fetched
from hetero_plugin.cli.options import numbers, spec_from_options
from hetero_plugin.config import ConfigError


def command(
    model: Annotated[
        Path, typer.Option(help="Folder of a clean Hugging Face checkpoint, or a name on the hub.")
    ],
    want: Annotated[
        str,
        typer.Option(
            help="kl=0.015, mean-dlogp=0.011 (nats a token), ratio-out=0.075, accuracy-loss=2pp."
        ),
    ],
    text: Annotated[Path | None, typer.Option(help="A text file, UTF-8.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Questions, for accuracy-loss: as of eval.")
    ] = None,
    levels: Annotated[
        str, typer.Option(help="Of accuracy-loss: scales that are tried, with commas.")
    ] = "0.01,0.02,0.05,0.1,0.2",
    n: Annotated[
        int | None, typer.Option(help="Of accuracy-loss: only the first so many questions.")
    ] = None,
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
    from hetero_plugin.evaluation.dial import accuracy

    loss = accuracy.parse(want)
    if loss is not None:
        if data is None or text is not None:
            raise ConfigError(f"--want {want} is about answers: give --data, and no --text")
        target = out or Path("dial.json")
        with Bars() as bars:
            answered = accuracy.find(
                fetched(model), data, loss, spec=spec_from_options(preset, config, None),
                out=target, levels=numbers("--levels", levels), progress=bars.update, n=n,
                seed=seed, dtype=dtype, backend=engine,
            )  # fmt: skip
        print(answered["sentence"], target, target.with_suffix(".eval.json"), sep="\n")
        return
    if text is None or data is not None:
        raise ConfigError(f"--want {want} is about a text: give --text, and no --data")
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
