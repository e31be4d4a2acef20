"""``hetero-noise eval``: checkpoints at several noise levels, in one attested engine each."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hetero_plugin.cli.checkpoint import fetched
from hetero_plugin.cli.options import numbers, spec_from_options
from hetero_plugin.config import ConfigError


def command(
    model: Annotated[
        list[Path],
        typer.Option(
            help="Folder of a clean Hugging Face checkpoint, or a name on the hub; may be repeated."
        ),
    ],
    data: Annotated[Path, typer.Option(help="Questions: GSM8K .jsonl or .parquet, or generated.")],
    levels: Annotated[str, typer.Option(help="Noise scales, with commas.")] = "0,0.05,0.10",
    preset: Annotated[str | None, typer.Option(help="Name of a preset: which sites.")] = None,
    presets: Annotated[
        str | None, typer.Option(help="Names of presets, with commas: all in one engine.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Specification: a .yaml or .json file, or JSON text.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Results file; of several models or presets: a folder of them.")
    ] = Path("eval.json"),
    n: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the noise; default: the spec's.")] = None,
    noise_seeds: Annotated[
        int, typer.Option(help="Draws of the error at each level, one noise step each.", min=1)
    ] = 1,
    samples: Annotated[int, typer.Option(help="Answers to each question.", min=1)] = 1,
    temperature: Annotated[
        float, typer.Option(help="At which answers are sampled; 0: greedy.")
    ] = 0.0,
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
    engine: Annotated[str, typer.Option(help="vllm (compiled), or hf (eager).")] = "vllm",
    tensor_parallel_size: Annotated[int, typer.Option(help="Of vLLM's engine.", min=1)] = 1,
    engine_args: Annotated[
        str | None, typer.Option(help="Further arguments of vllm.LLM, as JSON: '{\"…\": …}'.")
    ] = None,
    control: Annotated[
        bool, typer.Option(help="Answer clean twice, in other batches: the floor.")
    ] = True,
    realised: Annotated[bool, typer.Option(help="Measure realised error too.")] = True,
    allow_unattested: Annotated[
        bool, typer.Option("--allow-unattested", help="Keep results without proof of the noise.")
    ] = False,
    legacy_verdict: Annotated[
        bool, typer.Option("--legacy-verdict", help="Show the old rule's word too.")
    ] = False,
) -> None:
    """Evaluate checkpoints at several noise levels, with the noise attested.

    One engine a model serves all levels, presets and noise seeds. An interrupted evaluation goes on
    at its first unfinished pass with the same command. Exits with 1 and REFUSED if a site can't be
    shown to perturb the engine's output; a model that fails is named at the end, the others kept.
    """
    from hetero_plugin.evaluation.needs import check_packages

    if engine.lstrip().startswith("{"):
        raise ConfigError("--engine is vllm or hf; arguments of vllm.LLM go to --engine-args")
    check_packages(engine)  # before a download, and before what imports them
    from hetero_plugin.cli.screen import Bars
    from hetero_plugin.evaluation.answers.run import evaluate_specs
    from hetero_plugin.evaluation.answers.settings import Settings

    arguments: dict[str, Any] = _json_object(engine_args) if engine_args else {}
    if tensor_parallel_size != 1:
        arguments["tensor_parallel_size"] = tensor_parallel_size
    settings = Settings(
        levels=numbers("--levels", levels),
        n=n,
        seed=seed,
        draws=noise_seeds,
        samples=samples,
        temperature=temperature,
        max_tokens=max_tokens,
        reward=reward,
        chance=chance,
        dtype=dtype,
        margin=margin,
        allow_unattested=allow_unattested,
        realised=realised,
        control=control,
        backend=engine,
        engine=arguments,
    )
    specs = _specs(preset, presets, config)
    folders = [fetched(one) for one in model]
    outs = _outs(folders, list(specs), out)
    failed: dict[Path, Exception] = {}
    for folder in folders:
        # With one model what fails ends the command; of several the others are not lost with it.
        caught: type[Exception] | tuple[()] = Exception if len(folders) > 1 else ()
        try:
            with Bars() as bars:
                found = evaluate_specs(folder, data, specs, outs[folder], settings, bars.update)
        except caught as error:
            failed[folder] = error
            print(f"{folder}: {error}", file=sys.stderr)
            continue
        except Exception as error:
            _refused(error, outs[folder])
            raise
        _show(found, outs[folder], folder, len(folders) > 1, margin, legacy_verdict)
    written = [path for folder in folders if folder not in failed for path in outs[folder].values()]
    if written:
        words = " ".join(shlex.quote(str(path)) for path in written)
        print(f"a page of it: hetero-noise report {words}", file=sys.stderr)
    if failed:
        which = ", ".join(map(str, failed))
        print(
            f"{len(failed)} of {len(folders)} models failed: {which}; "
            "the same command goes on there",
            file=sys.stderr,
        )
        raise SystemExit(1)


def _refused(error: Exception, outs: dict[str, Path]) -> None:
    """Ends the command where the noise could not be attested."""
    from hetero_plugin.attestation import Refused

    if isinstance(error, Refused):
        print(error, file=sys.stderr)
        print(f"the attestation is in {', '.join(map(str, outs.values()))}", file=sys.stderr)
        raise SystemExit(1) from None


def _show(
    found: dict[str, Any],
    outs: dict[str, Path],
    folder: Path,
    several: bool,
    margin: float,
    legacy: bool,
) -> None:
    from hetero_plugin.cli.screen import print_levels

    for name, document in found.items():
        if several or len(found) > 1:
            print(f"{folder}, {name}:")
        print_levels(document, margin, legacy=legacy)
        print(outs[name])


def _specs(preset: str | None, presets: str | None, config: str | None) -> dict[str, Any]:
    """Name -> specification."""
    if presets is None:
        return {"spec": spec_from_options(preset, config, None)}
    if preset is not None or config is not None:
        raise ConfigError("give --presets, or one of --preset and --config")
    names = [name.strip() for name in presets.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--presets {presets!r}: it should be different names, with commas")
    return {name: spec_from_options(name, None, None) for name in names}


def _outs(folders: Sequence[Path], specs: Sequence[str], out: Path) -> dict[Path, dict[str, Path]]:
    """Results files: ``out`` of one model and specification, else files in that folder."""
    if len(set(folders)) < len(folders):
        raise ConfigError("--model: one is given twice")
    if len(folders) == len(specs) == 1:
        return {folders[0]: {specs[0]: out}}
    if out.suffix == ".json":
        if out != Path("eval.json"):
            raise ConfigError(
                f"--out {out}: of several models or presets it should be a folder, without .json"
            )
        out = out.with_suffix("")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file, and should be a folder")
    out.mkdir(parents=True, exist_ok=True)
    names = _names(folders)
    return {
        folder: {
            spec: out / f"{name}{'' if len(specs) == 1 else f'.{spec}'}.json" for spec in specs
        }
        for folder, name in zip(folders, names, strict=True)
    }


def _names(folders: Sequence[Path]) -> list[str]:
    """Short names of folders that tell them apart: of their last parts, as many as needed."""
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["-".join(folder.parts[-parts:]) for folder in folders]
        names = [re.sub(r"[^\w.+-]", "", name) for name in names]
        if len(set(names)) == len(names):
            return names
    return [f"{index}-{folder.name}" for index, folder in enumerate(folders)]


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--engine-args: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"--engine-args: got {type(value).__name__}; it should be an object")
    return value
