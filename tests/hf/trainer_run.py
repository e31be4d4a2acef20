"""A short run of transformers' Trainer; as a program, one that is killed in the middle of a step.

``python -m tests.hf.trainer_run FOLDER``
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from hetero_plugin import AQNConfig, NoiseConfig
from hetero_plugin.hf import HeteroNoiseCallback, wrap
from tests.hf.families import make_family, tokens

STEPS, MICRO = 5, 8
SPEC = NoiseConfig(
    preset="all-ops",
    scale=0.05,
    phase="train",
    aqn=AQNConfig(schedule="linear", sigma_start=0.05, sigma_end=0.01, total_steps=STEPS),
)


class Killer(TrainerCallback):
    """SIGKILL after some micro-batches of the fourth step."""

    def __init__(self) -> None:
        self.seen = 0

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            self.seen += 1
            if self.seen == 3:
                os.kill(os.getpid(), signal.SIGKILL)


def trainer(folder: Path, *more: TrainerCallback) -> tuple[Any, Any]:
    """A Trainer of 5 optimizer steps of 8 micro-batches of 2, and its callback."""
    torch.set_num_threads(1)
    model = make_family("qwen2").train()
    wrap(model, SPEC, quiet=True)
    rows = tokens(STEPS * MICRO * 2, 12)
    data: Any = [{"input_ids": row, "labels": row} for row in rows]
    callback = HeteroNoiseCallback()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=MICRO,
        learning_rate=1e-2,
        save_steps=2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
    )
    callbacks = [callback, *more]
    return Trainer(model, arguments, train_dataset=data, callbacks=callbacks), callback


if __name__ == "__main__":
    run, _ = trainer(Path(sys.argv[1]), Killer())
    run.train()
