"""``hetero-noise fidelity``: how far the noisy model's next-token distributions are, on a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hetero_plugin.cli.checkpoint import fetched
from hetero_plugin.cli.options import numbers, spec_from_options


def command(
    model: Annotated[
        Path, typer.Option(help="Folder of a clean Hugging Face checkpoint, or a name on the hub.")
    ],
    text: Annotated[Path, typer.Option(help="A text file, UTF-8.")],
    levels: Annotated[str, typer.Option(help="Noise scales over 0, with commas.")] = "0.05",
    preset: Annotated[str | None, typer.Option(help="Name of a preset: which sites.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Specification: a .yaml or .json file, or JSON text.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Of the text's beginning; bounds the cost.")] = 4096,
    context: Annotated[int, typer.Option(help="Tokens of a window of text.")] = 256,
    seed: Annotated[int | None, typer.Option(help="Of the noise; default: the spec's.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float32, …")] = "auto",
    engine: Annotated[str, typer.Option(help="hf (eager) or vllm (compiled).")] = "hf",
    sampling_seed: Annotated[
        int, typer.Option(help="Of the tokens that clean and noisy draw with the same numbers.")
    ] = 0,
    sampled: Annotated[
        bool, typer.Option(help="Draw them; as much work as the other measures together.")
    ] = True,
    out: Annotated[Path | None, typer.Option(help="Write the result there, as JSON.")] = None,
) -> None:
    """Per-token KL, Δp, same top token, perplexity ratio against clean, with an A/A floor.

    In Hugging Face (eager) or vLLM (compiled), attested first: exits with 1 and REFUSED if a site
    can't be shown to act.
    """
    from hetero_plugin.cli.screen import Bars, print_fidelity
    from hetero_plugin.evaluation.fidelity.run import measure_checkpoint

    with Bars() as bars:
        found = measure_checkpoint(
            fetched(model),
            text,
            levels=numbers("--levels", levels),
            spec=spec_from_options(preset, config, None),
            seed=seed,
            dtype=dtype,
            tokens=tokens,
            context=context,
            engine=engine,
            sampling=sampling_seed if sampled else None,
            out=out,
            progress=bars.update,
        )
    print_fidelity(found)
    if out is not None:
        print(out)
