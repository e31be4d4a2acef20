"""Two steps of verl's GRPO on one GPU: FSDP2, packed sequences, checkpointing, noise in both."""

from __future__ import annotations

import json
import math
import subprocess
from typing import Any

import torch

from hetero_plugin.config import NoiseConfig
from scripts.gpu.findings import Report, Size

SPEC = {"preset": "all", "scale": 0.05, "seed": 7}


def miniature(size: Size) -> Any:
    """The folder of a small Qwen2, its tokenizer and additions to train on."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from hetero_plugin.miniature.model import build_tokenizer, save
    from hetero_plugin.miniature.task import Question, to_rows, write_parquet

    folder = size.out / "models" / "verl"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    save(Qwen2ForCausalLM(config), tokenizer, folder / "model")
    # Sums of one to thirteen numbers: prompts of unequal lengths, so that packing does something.
    asked = [Question(tuple(10 + (7 * i + j) % 90 for j in range(1 + i % 13))) for i in range(64)]
    for name in ("train", "test"):
        write_parquet(to_rows(asked, name), folder / f"{name}.parquet")
    return folder


def two_steps(size: Size, report: Report) -> None:
    """Runs them and reads verl's metrics and the attestations."""
    from hetero_plugin.attestation import problems
    from hetero_plugin.verl import launch

    folder, output = miniature(size), size.out / "verl"
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    run = launch.MiniatureRun(
        model=folder / "model",
        train_files=folder / "train.parquet",
        val_files=folder / "test.parquet",
        output=output,
        steps=2,
        batch=4,
        samples=4,
        prompt_length=40,
        dtype="bfloat16",
        noise=NoiseConfig.parse(SPEC),
        overrides=(
            "trainer.device=cuda",
            "actor_rollout_ref.model.use_remove_padding=True",
            "actor_rollout_ref.model.enable_gradient_checkpointing=True",
            f"{actor}.fsdp_config.model_dtype=bf16",
            f"{actor}.fsdp_config.mixed_precision={{param_dtype:bf16,reduce_dtype:fp32}}",
            f"{rollout}.free_cache_engine=True",
            f"{rollout}.enable_sleep_mode=True",
            f"{rollout}.gpu_memory_utilization=0.3",
        ),
    )
    output.mkdir(parents=True, exist_ok=True)
    run.metrics.unlink(missing_ok=True)
    env = run.environment()
    env.pop("VERL_PLATFORM")  # the one of the device
    before = set(output.rglob("attestation-*.json"))
    done = subprocess.run(launch.command(run), cwd=output, env=env)
    rows = launch.read_metrics(run.metrics)
    report.hold("two steps were made", done.returncode == 0 and len(rows) == 2, f"{len(rows)} rows")
    for row in rows:
        data = row["data"]
        gap = data.get("hetero/rollout_actor_logprob_gap/mean", math.nan)
        report.hold(
            f"step {row['step']}: rollout and actor have one noise", gap < 0.2, f"gap {gap:.4f}"
        )
        error = data.get("hetero/actor/realised_error/linear", math.nan)
        report.hold(
            f"step {row['step']}: the actor's error is what was asked",
            abs(error / 0.05 - 1) < 0.05,
            f"{error:.4f}",
        )
    records = sorted(set(output.rglob("attestation-*.json")) - before)
    wrong = [p for path in records for p in problems(json.loads(path.read_text()))]
    report.hold(
        "rollout and actor are attested", bool(records) and not wrong, "; ".join(wrong)[:600]
    )
