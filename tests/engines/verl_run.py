"""What the tests of real verl on a CPU share: their marks, a tiny model, a run, a specification."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")
pytest.importorskip("vllm")

from hetero_plugin.config import NoiseConfig
from hetero_plugin.miniature.task import Question
from hetero_plugin.verl.launch import MiniatureRun
from hetero_plugin.verl.platform import accelerator_present

MARKS = [
    pytest.mark.engine,
    pytest.mark.skipif(accelerator_present(), reason="this is verl's CPU path"),
]
RUNS = [*MARKS, pytest.mark.slow]
"""Of whole runs, which take minutes."""


def spec_of(preset: str, *, steps: int = 3, sigma_end: float = 0.01) -> NoiseConfig:
    """5 % error at a preset's sites, and AQN with a stage a step: 0 first, then from 0.02."""
    aqn = {
        "schedule": "global",
        "sigma_start": 0.02,
        "sigma_end": sigma_end,
        "stages": steps,
        "total_steps": steps,
    }
    return NoiseConfig.parse({"preset": preset, "scale": 0.05, "seed": 7, "aqn": aqn})


def make_miniature(folder: Path) -> None:
    """A two-layer Qwen2 with random weights, its tokenizer, and 64 additions."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from hetero_plugin.miniature.model import build_tokenizer, save
    from hetero_plugin.miniature.task import to_rows, write_parquet

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    # The vocabulary is the tokenizer's, without padding: verl masks padding in the rollout only,
    # and that would show as a difference between rollout and actor that is no error of theirs.
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # vLLM's CPU attention takes heads of 32 and more
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.1,
    )
    save(Qwen2ForCausalLM(config), tokenizer, folder / "model")
    write_parquet(to_rows(unequal(64, seed=0), "train"), folder / "train.parquet")
    write_parquet(to_rows(unequal(16, seed=1), "test"), folder / "test.parquet")


def unequal(n: int, seed: int) -> list[Question]:
    """Sums of 1 to 13 numbers, in turn: prompts of 3 to 40 tokens, so that batches are padded."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        numbers = [rng.randint(10, 99) for _ in range(1 + i % 13)]
        if len(numbers) == 13:
            numbers[0] = rng.randint(100, 999)
        made.append(Question(tuple(numbers)))
    return made


def run_of(miniature: Path, output: Path, **values: Any) -> MiniatureRun:
    return MiniatureRun(
        model=miniature / "model",
        train_files=miniature / "train.parquet",
        val_files=miniature / "test.parquet",
        output=output,
        batch=4,
        samples=4,
        prompt_length=40,
        entropy=0.01,  # a gradient even while random weights earn no reward
        enforce_eager=True,  # compiling is tested with vLLM alone; here it would double the time
        **values,
    )
