"""``hetero-noise attest``: proof that each selected site perturbs the model's output."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetero_plugin.cli.checkpoint import fetched
from hetero_plugin.cli.options import read_model_config, spec_from_options
from hetero_plugin.config import ConfigError, NoiseConfig, resolve

if TYPE_CHECKING:
    from hetero_plugin.cli.screen import Bars


class Engine(StrEnum):
    """Which engine to attest."""

    hf = "hf"
    vllm = "vllm"


def command(
    model: Annotated[
        Path, typer.Option(help="Folder of a clean Hugging Face checkpoint, or a name on the hub.")
    ],
    engine: Annotated[Engine, typer.Option(help="Which engine.")] = Engine.vllm,
    preset: Annotated[str | None, typer.Option(help="Name of a preset.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Specification: a .yaml or .json file, or JSON text.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Replaces every rule's scale.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float32, …")] = "auto",
    compiled: Annotated[
        bool | None,
        typer.Option(help="torch.compile; default: as production has it, vLLM yes, HF no."),
    ] = None,
    plain_engine: Annotated[
        bool,
        typer.Option(
            "--plain-engine", help="vLLM: compare 'off' with an engine without the plugin too."
        ),
    ] = False,
    tensor_parallel_size: Annotated[int, typer.Option(help="vLLM: ranks.", min=1)] = 1,
    group: Annotated[
        int, typer.Option(help="1: each site alone; more: so many together, which proves less.")
    ] = 1,
    inject: Annotated[
        str | None,
        typer.Option(help="Test hook: put this fault in first, NAME or NAME:SITE; docs/faults.md."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the record as JSON.")] = None,
    brief: Annotated[bool, typer.Option("--brief", help="Leave out the table of sites.")] = False,
) -> None:
    """Prove that each selected site perturbs the model's output, through the engine itself.

    All off must equal the clean output exactly; then each site alone must change it, and each norm
    that AQN disturbs. Exits with 0 and a table if every one is seen, else with 1 and REFUSED,
    naming what failed.
    """
    from hetero_plugin import attestation
    from hetero_plugin.cli.screen import Bars, print_attestation
    from hetero_plugin.evaluation import checkpoints, faults, files

    if group < 1:
        raise ConfigError(f"--group {group}: it should be an integer ≥ 1.")
    if out is not None:
        if os.path.lexists(out):
            raise ConfigError(
                f"--out {out}: is there already; a record is not written over another."
            )
        files.check_target(out)
    fault = None if inject is None else faults.parse(inject, engine.value)
    model = fetched(model)
    hf_config = read_model_config(str(model))
    if not model.is_dir():
        raise ConfigError(f"--model {model}: attestation runs the model; give its folder")
    checkpoints.check_weights(model)
    spec = resolve(
        argument=spec_from_options(preset, config, scale),
        model_config=hf_config.get("quantization_config"),
    )
    if spec is None:
        spec = NoiseConfig.parse(None)
    with Bars() as bars:
        record = run(
            model,
            engine,
            spec,
            bars,
            dtype=dtype,
            compiled=engine is Engine.vllm if compiled is None else compiled,
            plain_engine=plain_engine,
            tensor_parallel_size=tensor_parallel_size,
            group=group,
            fault=fault,
        )
    print_attestation(record, every_site=not brief)
    if out is not None:
        written = files.write_new(out, record)
        if written != out:
            print(
                f"--out {out}: has appeared meanwhile and was left alone; the record is in "
                f"{written}",
                file=sys.stderr,
            )
    found = attestation.problems(record, spec.fingerprint)
    if found:
        print("REFUSED:\n  " + "\n  ".join(found), file=sys.stderr)
        raise SystemExit(1)


def run(
    model: Path,
    engine: Engine,
    spec: NoiseConfig,
    bars: Bars,
    *,
    dtype: str = "auto",
    compiled: bool,
    plain_engine: bool = False,
    tensor_parallel_size: int = 1,
    group: int = 1,
    fault: tuple[str, str | None] | None = None,
) -> dict[str, Any]:
    """Attests one engine on a checkpoint; see ``hetero_plugin.attestation.attest``.

    Args:
        fault: name and site of a fault to put in first (``evaluation/faults.py``).
    """
    if engine is Engine.hf:
        return _hf(model, spec, dtype, compiled, bars, group, fault)
    arguments = {
        "dtype": dtype,
        "enforce_eager": not compiled,
        "tensor_parallel_size": tensor_parallel_size,
    }
    return _vllm(
        model, spec, read_model_config(str(model)), arguments, plain_engine, bars, group, fault
    )


def _hf(
    model: Path,
    spec: NoiseConfig,
    dtype: str,
    compiled: bool,
    bars: Bars,
    group: int,
    fault: tuple[str, str | None] | None,
) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    from hetero_plugin import attestation
    from hetero_plugin.evaluation import faults
    from hetero_plugin.hf.probe import HFProbe

    bars.update("loading", 0, 1)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    except Exception as error:  # whatever the loader of a damaged file raises
        said = " ".join(str(error).split())[:400]
        raise ConfigError(
            f"--model {model}: can't be loaded ({type(error).__name__}: {said})."
        ) from error
    probe = HFProbe.wrapping(loaded, spec, compiled=compiled)
    bars.update("loading", 1, 1)
    if fault is not None:
        faults.inject(fault[0], loaded, fault[1])
    return attestation.attest(
        probe, group=group, progress=lambda done, of: bars.update("attesting", done, of)
    )


def _vllm(
    model: Path,
    spec: NoiseConfig,
    hf_config: dict[str, Any],
    arguments: dict[str, Any],
    plain_engine: bool,
    bars: Bars,
    group: int,
    fault: tuple[str, str | None] | None,
) -> dict[str, Any]:
    from hetero_plugin import attestation
    from hetero_plugin.evaluation import checkpoints, engines, faults
    from hetero_plugin.vllm.probe import VLLMProbe, prompt_logprobs

    length = min(int(hf_config.get("max_position_embeddings") or 64), 64)
    arguments = {
        "model": str(model),
        "max_model_len": length,
        **engines.cpu_arguments(hf_config, length, 8),
        **arguments,
    }
    checkpoints.tokenizer(model)  # vLLM's own failure to load it is far from its name
    reference = None
    if plain_engine:
        bars.update("starting an engine without the plugin", 0, 1)
        plain = engines.start_plain(arguments)
        try:
            reference = prompt_logprobs(plain)
        finally:
            engines.stop(plain)
        bars.update("starting an engine without the plugin", 1, 1)
    bars.update("starting the engine", 0, 1)
    if fault is not None and fault[0] == "process":
        llm = engines.start_plain(arguments)
    elif fault is not None and fault[1] is not None:
        llm = engines.start(faults.without(spec, fault[1]), arguments)
    else:
        llm = engines.start(spec, arguments)
    bars.update("starting the engine", 1, 1)
    try:
        return attestation.attest(
            VLLMProbe(llm, spec, reference=reference),
            group=group,
            progress=lambda done, of: bars.update("attesting", done, of),
        )
    finally:
        engines.stop(llm)
