"""GRPO in TRL with hardware error, on CPU cores: a small random model, a toy reward, minutes.

    python recipes/trl_grpo.py OUT [--spec FILE] [--steps 4] [--vllm]

Writes OUT/model (saved clean) and OUT/history.json: TRL's log of each step, and for --vllm what the
engine says of its noise. For a real model replace `model`, `reward` and `data`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT = {
    "preset": "linear",
    "scale": 0.05,
    "aqn": {"schedule": "global", "sigma_start": 0.05, "sigma_end": 0.01, "stages": 4},
}


def reward(completions: list[str], **columns: Any) -> list[float]:
    """Different letters in a completion."""
    return [float(len(set(text))) for text in completions]


def main(
    out: Annotated[Path, typer.Argument(help="Folder of this run.")],
    spec: Annotated[Path | None, typer.Option(help="A specification, JSON or YAML.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 4,
    vllm: Annotated[bool, typer.Option("--vllm", help="Generate with a colocated vLLM.")] = False,
) -> None:
    """Trains and writes the log."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig

    from hetero_plugin import NoiseConfig
    from hetero_plugin.hf import unwrap, wrap
    from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save
    from hetero_plugin.trl import HeteroNoiseGRPOTrainer

    shape = MiniatureShape(layers=2, hidden=64, intermediate=128, heads=2, kv_heads=1)
    save(build_model(shape, seed=0), build_tokenizer(), out / "start")
    model = AutoModelForCausalLM.from_pretrained(out / "start")
    given = NoiseConfig.parse(DEFAULT if spec is None else spec)
    if given.aqn is not None and given.aqn.total_steps is None:
        given = given.replace(aqn=given.aqn.replace(total_steps=steps))
    history: list[dict[str, Any]] = []

    class Trainer(HeteroNoiseGRPOTrainer):
        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            super().log(logs, *args, **kwargs)
            engine = None if self.engine is None else self.engine.status
            history.append({**self.state.log_history[-1], "engine": engine})

    trainer = Trainer(
        wrap(model, given),
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(out / "trainer"),
            max_steps=steps,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=8,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            bf16=False,
            use_cpu=True,
            disable_tqdm=True,
            use_vllm=vllm,
            vllm_mode="colocate",
            vllm_max_model_length=64,
            vllm_gpu_memory_utilization=0.05,
        ),
        train_dataset=Dataset.from_list([{"prompt": f"{i}+{i + 1}="} for i in range(10, 42)]),
        processing_class=AutoTokenizer.from_pretrained(out / "start"),
    )
    trainer.train()
    unwrap(model).save_pretrained(out / "model")
    (out / "history.json").write_text(json.dumps(history, indent=2, default=str))
    for entry in history:
        print({key: entry.get(key) for key in ("step", "reward", "hetero/step", "hetero/sigma")})


if __name__ == "__main__":
    typer.run(main)
