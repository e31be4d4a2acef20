"""``hetero-noise eval``: a checkpoint at several noise levels, in one attested vLLM engine."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hetero_plugin.cli.checkpoint import fetched
from hetero_plugin.cli.options import numbers, spec_from_options
from hetero_plugin.config import ConfigError


def command(
    model: Annotated[
        Path, typer.Option(help="Folder of a clean Hugging Face checkpoint, or a name on the hub.")
    ],
    data: Annotated[Path, typer.Option(help="Questions: GSM8K .jsonl or .parquet, or generated.")],
    levels: Annotated[str, typer.Option(help="Noise scales, with commas.")] = "0,0.05,0.10",
    preset: Annotated[str | None, typer.Option(help="Name of a preset: which sites.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Specification: a .yaml or .json file, or JSON text.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Results file.")] = Path("eval.json"),
    n: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise; default: the spec's.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Of an answer; default: what is known of the data source.")
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="Judge by FILE.py:function, called as verl calls a reward.")
    ] = None,
    chance: Annotated[
        float, typer.Option(help="Accuracy of guessing, near which no verdict is given.")
    ] = 0.0,
    dtype: Annotated[str, typer.Option(help="Of the engine: auto, bfloat16, float32, …")] = "auto",
    margin: Annotated[
        float, typer.Option(help="Of the equivalence test; fixed before the first answer.")
    ] = 0.02,
    tensor_parallel_size: Annotated[int, typer.Option(help="Of the engine.", min=1)] = 1,
    engine: Annotated[
        str | None, typer.Option(help="Further arguments of vllm.LLM, as JSON: '{\"…\": …}'.")
    ] = None,
    realised: Annotated[bool, typer.Option(help="Measure realised error too.")] = True,
    allow_unattested: Annotated[
        bool, typer.Option("--allow-unattested", help="Keep results without proof of the noise.")
    ] = False,
    legacy_verdict: Annotated[
        bool, typer.Option("--legacy-verdict", help="Show the old rule's word too.")
    ] = False,
) -> None:
    """Evaluate a checkpoint at several noise levels, with the noise attested.

    An interrupted evaluation goes on at its first unfinished level with the same command. Exits
    with 1 and REFUSED if a site can't be shown to perturb the engine's output.
    """
    from hetero_plugin.evaluation.needs import check_packages

    check_packages()  # before a download, and before what imports them
    from hetero_plugin.attestation import Refused
    from hetero_plugin.cli.screen import Bars, print_levels
    from hetero_plugin.evaluation.vllm_eval import evaluate

    arguments: dict[str, Any] = _json_object(engine) if engine else {}
    if tensor_parallel_size != 1:
        arguments["tensor_parallel_size"] = tensor_parallel_size
    try:
        with Bars() as bars:
            document = evaluate(
                fetched(model),
                data,
                levels=numbers("--levels", levels),
                spec=spec_from_options(preset, config, None),
                n=n,
                seed=seed,
                max_tokens=max_tokens,
                reward=reward,
                chance=chance,
                dtype=dtype,
                margin=margin,
                out=out,
                allow_unattested=allow_unattested,
                realised=realised,
                engine=arguments,
                progress=bars.update,
            )
    except Refused as error:
        print(error, file=sys.stderr)
        print(f"the attestation is in {out}", file=sys.stderr)
        raise SystemExit(1) from None
    print_levels(document, margin, legacy=legacy_verdict)
    print(out)
    print(f"a page of it: hetero-noise report {shlex.quote(str(out))}", file=sys.stderr)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--engine: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"--engine: got {type(value).__name__}; it should be an object")
    return value
