"""``hetero-noise profile record``: what this machine's operators compute, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hetero_plugin.cli.checkpoint import fetched


def command(
    model: Annotated[
        Path, typer.Option(help="Folder of a clean Hugging Face checkpoint, or a name on the hub.")
    ],
    out: Annotated[Path, typer.Option(help="The recording, a file that ends in .rec.")],
    text: Annotated[
        Path | None, typer.Option(help="A text file, UTF-8; not needed with --replay-inputs.")
    ] = None,
    engine: Annotated[str, typer.Option(help="hf (eager) or vllm.")] = "hf",
    replay_inputs: Annotated[
        Path | None, typer.Option(help="A recording, of another machine: its very inputs are used.")
    ] = None,
    as_: Annotated[
        str,
        typer.Option(
            "--as",
            help="plain, fp32-gemm, no-onednn, compiled, threads:N, rows:N, accumulate:HARDWARE, "
            "gaussian:S: what this machine is made to do.",
        ),
    ] = "plain",
    layers: Annotated[
        str | None,
        typer.Option(help="Decoder layers, and what is in none: 0,4,8-11,outside; default: all."),
    ] = None,
    targets: Annotated[
        str, typer.Option(help="Kinds, site names, globs or re: patterns, with commas.")
    ] = "linear,norm,activation,attention",
    rows: Annotated[int, typer.Option(help="Tokens of the text.")] = 128,
    columns: Annotated[int, typer.Option(help="Of an operator's outputs, at most.")] = 128,
    repeats: Annotated[int, typer.Option(help="Times that each operator is run.")] = 3,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16, float32.")] = "auto",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, npu; default: the accelerator, if there is one.")
    ] = None,
    fused: Annotated[
        bool,
        typer.Option(
            "--fused",
            help="Norms with the addition before them and activations with the product after, as "
            "vLLM computes them.",
        ),
    ] = False,
) -> None:
    """Run a model's operators, each by itself, on the inputs that a text gives them.

    Kept are their outputs, a float64 reference, and what machine it is. On a second machine give
    the first one's recording to --replay-inputs. Interrupted, the same command goes on.
    """
    from hetero_plugin.cli.screen import Bars
    from hetero_plugin.config import ConfigError
    from hetero_plugin.evaluation import files
    from hetero_plugin.profile.record import Asked, record

    if engine not in ("hf", "vllm"):
        raise ConfigError(f"--engine {engine!r}: should be hf or vllm")
    files.check_target(out)
    asked = Asked(
        model=fetched(model),
        out=out,
        text=text,
        engine="vllm" if engine == "vllm" else "hf",
        replay=replay_inputs,
        variant=as_,
        layers=None if layers is None else tuple(layers.split(",")),
        targets=tuple(word.strip() for word in targets.split(",")),
        rows=rows,
        columns=columns,
        repeats=repeats,
        dtype=dtype,
        device=device,
        fused=fused,
    )
    with files.locked(out), Bars() as bars:
        made = record(asked, bars.update, lambda line: bars.console.print(line, highlight=False))
    print(f"{out}: {len(made.sites)} operators, {made.bytes / 1e6:,.1f} MB")
