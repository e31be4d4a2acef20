"""The stages of a demonstration run, each a plain function of settings and folder.

A stage reads what earlier stages wrote, writes its own files, reports progress through a callback
and returns JSON data. It knows nothing of the order of stages, of resuming or of the screen.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError
from hetero_plugin.demo import data, saying, weights
from hetero_plugin.demo.runfolder import RunFolder, write_json
from hetero_plugin.demo.settings import ArmName, DemoSettings

Report = Callable[[float, str], None]  # share of the stage that is done, what it is doing


@dataclass(frozen=True)
class Context:
    """What every stage gets. `threads` is how many cores its processes may use."""

    settings: DemoSettings
    folder: RunFolder
    threads: int
    report: Report


@dataclass(frozen=True)
class Outcome:
    """What a stage leaves: JSON data, and the files whose hashes are recorded."""

    result: dict[str, Any]
    outputs: tuple[Path, ...]


def _model_files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(p for p in folder.iterdir() if p.is_file() and not p.is_symlink()))


def check_model(path: Path) -> dict[str, Any]:
    """The configuration of a checkpoint that training can start from.

    Raises:
        CheckpointError: no checkpoint there, or not a clean one.
        ConfigError: not a Qwen2, or without weights or tokenizer.
    """
    config = weights.check_clean(path)
    if config.get("model_type") != "qwen2":
        raise ConfigError(
            f"--model {path} is a {config.get('model_type')!r}; training on a CPU is built for "
            "Qwen2 checkpoints (model_type 'qwen2')"
        )
    if not any(path.glob("*.safetensors")):
        raise ConfigError(f"--model {path} holds no *.safetensors weights")
    if not (path / "tokenizer_config.json").is_file():
        raise ConfigError(f"--model {path} holds no tokenizer (tokenizer_config.json)")
    return config


def prepare(ctx: Context) -> Outcome:
    """Questions as parquet and, for the miniature, its tokenizer."""
    from transformers import AutoTokenizer

    from hetero_plugin.demo.model import build_tokenizer

    settings = ctx.settings
    if settings.model is not None:
        check_model(settings.model)
        tokenizer = AutoTokenizer.from_pretrained(settings.model)
    else:
        tokenizer = build_tokenizer()
    ctx.report(0.3, "writing questions")
    if settings.train_file is not None and settings.test_file is not None:
        made = data.write_given(
            settings.train_file,
            settings.test_file,
            ctx.folder.data,
            tokenizer,
            n_dev=settings.task.n_dev,
            seed=settings.seed,
        )
    else:
        splits = data.generate(settings.task, settings.seed)
        made = data.write_generated(splits, ctx.folder.data, tokenizer)
    result = {"questions": made.sizes, "longest_prompt": made.longest_prompt}
    return Outcome(result, tuple(made.files.values()))


def warm_up(ctx: Context) -> Outcome:
    """The checkpoint that all arms start from: the warmed-up miniature, or the user's model."""
    import torch

    from hetero_plugin.demo import model as miniature
    from hetero_plugin.demo import task, warmup

    settings, target = ctx.settings, ctx.folder.model
    if settings.model is not None:
        shutil.copytree(settings.model, target, dirs_exist_ok=True)
        return Outcome({"copied_from": str(settings.model.absolute())}, _model_files(target))
    # One thread: the matrices are too small to share, and sums then come out the same on any
    # machine with the same instructions, whatever its number of cores.
    torch.set_num_threads(1)
    tokenizer = miniature.build_tokenizer()
    model = miniature.build_model(settings.shape, settings.seed)
    splits = data.generate(settings.task, settings.seed)
    encoder = warmup.Encoder(tokenizer, splits.dev[0], settings.task.longest_answer)
    stream = task.training_stream(
        digits=settings.task.digits,
        operands=settings.task.operands,
        seed=settings.seed,
        held_out=splits.held_out,
    )
    result = warmup.warm_up(model, encoder, stream, splits.dev, settings.warmup, ctx.report)
    miniature.save(model, tokenizer, target)
    with ctx.folder.log("warm-up").open("w", encoding="utf-8") as log:
        for step, loss, accuracy in result.curve:
            log.write(f"step {step} loss {loss:.4f} development accuracy {accuracy:.3f}\n")
    return Outcome(result.model_dump(mode="json"), _model_files(target))


def run_of(ctx: Context, arm: ArmName) -> Any:
    """The arm's training as `hetero_plugin.verl.launch.MiniatureRun`."""
    from hetero_plugin.verl.launch import MiniatureRun

    settings = ctx.settings
    grpo, prepared = settings.grpo, ctx.folder.read("prepare")
    if prepared is None:
        raise ConfigError(f"{ctx.folder.path}: the stage 'prepare' has not been run")
    return MiniatureRun(
        model=ctx.folder.model,
        train_files=ctx.folder.data / "train.parquet",
        val_files=ctx.folder.data / "dev.parquet",
        output=ctx.folder.arm(arm),
        name=arm,
        steps=grpo.steps,
        noise=settings.noise(arm),
        seed=settings.seed,
        batch=grpo.batch,
        samples=grpo.samples,
        learning_rate=grpo.learning_rate,
        temperature=grpo.temperature,
        prompt_length=max(16, int(prepared["result"]["longest_prompt"])),
        response_length=settings.response_length(),
        test_every=grpo.test_every,
        threads=ctx.threads,
        cache=cache_folder(),
    )


def train(ctx: Context, arm: ArmName) -> Outcome:
    """GRPO by verl; fails unless every process that should be noisy said so in the log.

    Raises:
        LaunchError: training failed (with the end of its log).
        SilentProcess: a process that should be noisy did not say so, or a clean arm is noisy.
    """
    from hetero_plugin.verl import checkpoint, launch

    run = run_of(ctx, arm)
    shutil.rmtree(run.output / "checkpoints", ignore_errors=True)  # of an interrupted attempt
    began = time.monotonic()
    startup: list[float] = []

    def on_progress(step: int, metrics: Mapping[str, Any]) -> None:
        if step == 1:
            startup.append(time.monotonic() - began)
        score = metrics.get("critic/score/mean")
        words = f"step {step} of {run.steps}"
        ctx.report(
            0.4 + 0.55 * step / run.steps,
            words if score is None else f"{words}, mean reward {float(score):.2f}",
        )

    ctx.report(0.0, "starting Ray, the actor and vLLM")
    rows = launch.execute(run, on_progress, timeout=ctx.settings.grpo.timeout)
    said = saying.check_log(run.log, run.noise)
    seconds = time.monotonic() - began
    scores = [
        row["data"]["critic/score/mean"] for row in rows if "critic/score/mean" in row["data"]
    ]
    summary = {
        "seed": run.seed,
        "steps": run.steps,
        "prompts_a_step": run.batch,
        "samples_a_prompt": run.samples,
        "learning_rate": run.learning_rate,
        "noise": None if run.noise is None else json.loads(run.noise.canonical),
        "fingerprint": None if run.noise is None else run.noise.fingerprint,
        "aqn": None
        if run.noise is None or run.noise.aqn is None
        else run.noise.aqn.model_dump(mode="json"),
        "processes": said,
        "first_reward": scores[0] if scores else None,
        "last_reward": sum(scores[-5:]) / len(scores[-5:]) if scores else None,
        "seconds_to_first_step": round(startup[0], 1) if startup else None,
        "seconds": round(seconds, 1),
    }
    write_json(ctx.folder.arm(arm) / "train.json", summary)
    outputs = (
        run.metrics,
        ctx.folder.arm(arm) / "train.json",
        *checkpoint.rank_files(run.checkpoint),
    )
    return Outcome(summary, outputs)


def merge_arm(ctx: Context, arm: ArmName) -> Outcome:
    """The arm's checkpoint as a clean Hugging Face folder.

    Raises:
        CheckpointError: incomplete, not clean, or not moved by training.
    """
    from hetero_plugin.verl import checkpoint

    target = ctx.folder.arm_model(arm)
    # torch warns that a mesh read from a file has no process group: there is none, nor need be.
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)
    checkpoint.merge(run_of(ctx, arm).checkpoint, ctx.folder.model, target)
    weights.check_clean(target)
    return Outcome(weights.movement(ctx.folder.model, target), _model_files(target))


def evaluate(ctx: Context, arm: ArmName) -> Outcome:
    """Greedy accuracy at every level by vLLM, attested, in a process of its own.

    Raises:
        StageFailed: the evaluation failed or was refused (with the end of its log).
    """
    from hetero_plugin.demo import child
    from hetero_plugin.verl import launch

    settings, out = ctx.settings, ctx.folder.evaluation(arm)
    job = {
        # Relative to the run folder, so that a moved one still holds the same run.
        "model_path": str(ctx.folder.arm_model(arm).relative_to(ctx.folder.path)),
        "data_file": str((ctx.folder.data / "test.parquet").relative_to(ctx.folder.path)),
        "levels": list(settings.levels),
        "spec": json.loads(settings.evaluation_spec().canonical),
        "n": settings.n_eval,
        "seed": settings.seed,
        "max_tokens": settings.response_length(),
        "dtype": "float32" if settings.model is None else "auto",
        "margin": settings.margin,
        "out": str(out.relative_to(ctx.folder.path)),
        "engine": {"gpu_memory_utilization": 0.1},
    }
    env = launch.environment(run_of(ctx, arm))
    for name in ("VERL_PLATFORM", "VERL_FILE_LOGGER_PATH"):
        env.pop(name, None)
    command = [sys.executable, "-m", "hetero_plugin.demo.evaluate_child", json.dumps(job)]
    _discard_stale(out, ctx.folder.arm_model(arm))
    log = ctx.folder.log(f"evaluate:{arm}")
    child.run(command, env, log, ctx.report, cwd=ctx.folder.path)
    document = json.loads(out.read_text(encoding="utf-8"))
    accuracy = {str(row["level"]): row["accuracy"] for row in document["levels"]}
    return Outcome({"n": document["header"]["n"], "accuracy": accuracy}, (out,))


def _discard_stale(out: Path, model: Path) -> None:
    """Removes an evaluation of weights that have been trained anew since."""
    from hetero_plugin.evaluation.checkpoints import weights_digest

    if not out.is_file():
        return
    try:
        header = json.loads(out.read_text(encoding="utf-8"))["header"]
    except (ValueError, KeyError, TypeError):
        header = {}
    if header.get("model_sha256") != weights_digest(model):
        out.unlink()


def report(ctx: Context) -> Outcome:
    """report.json and report.html.

    Raises:
        Refused: a result's noise is not attested.
    """
    from hetero_plugin.evaluation.report.page import build

    paths = build(ctx.folder.path)
    return Outcome({"json": paths[0].name, "html": paths[1].name}, tuple(paths))


def cache_folder() -> Path:
    """Compiled code that the arms' and evaluations' engines share, across runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "hetero_noise" / "compiled"
