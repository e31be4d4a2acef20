"""GRPO with a colocated vLLM on prompts of 3 to 40 tokens in one batch, noisy and then clean.

    python unequal_run.py OUT

Prints TRL's gap between what vLLM said of its completions and what training computes, by step, as
JSON after ``@@``. Weights stand still, so that steps differ in their noise and prompts alone.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

STEPS = 12
LENGTHS = (3, 40, 7, 25, 12, 33, 5, 18)


def main(out: Path) -> None:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig

    from hetero_plugin import NoiseConfig, state_of, wrap
    from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save
    from hetero_plugin.trl import HeteroNoiseGRPOTrainer

    shape = MiniatureShape(layers=2, hidden=64, intermediate=128, heads=2, kv_heads=1)
    save(build_model(shape, seed=0), build_tokenizer(), out / "start")
    tokenizer = AutoTokenizer.from_pretrained(out / "start")
    model = wrap(
        AutoModelForCausalLM.from_pretrained(out / "start"),
        NoiseConfig(scale=0.1, targets=["linear"], exclude=["lm_head"]),
    )
    text = "".join(chr(97 + i % 26) for i in range(99))
    prompts = [text[i : i + LENGTHS[i % len(LENGTHS)]] for i in range(32)]
    lengths = sorted({len(tokenizer(prompt).input_ids) for prompt in prompts})

    class Halfway(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == STEPS // 2:
                state_of(model).set_scale(0.0)
                assert trainer.engine is not None
                trainer.engine._call("set", scale=0.0)

    trainer = HeteroNoiseGRPOTrainer(
        model,
        reward_funcs=lambda completions, **columns: [float(len(set(c))) for c in completions],
        args=GRPOConfig(
            output_dir=str(out / "trainer"),
            max_steps=STEPS,
            per_device_train_batch_size=8,
            num_generations=2,
            max_completion_length=8,
            learning_rate=0.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            bf16=False,
            use_cpu=True,
            disable_tqdm=True,
            use_vllm=True,
            vllm_mode="colocate",
            vllm_max_model_length=64,
            vllm_gpu_memory_utilization=0.05,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
        callbacks=[Halfway()],
    )
    trainer.train()
    name = "sampling/sampling_logp_difference/mean"
    gaps = [float(entry[name]) for entry in trainer.state.log_history if name in entry]
    print("@@" + json.dumps({"gaps": gaps, "lengths": lengths}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
