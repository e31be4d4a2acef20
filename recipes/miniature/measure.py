"""`python recipes/miniature/measure.py`: is the generated task hard enough to feel the error?

Warms the miniature up once for each seed and prints its greedy exact-match on the test set under
relative Gaussian error on every linear layer but the head, as a plain Hugging Face model. The
model has never trained under noise; what it loses is what hardware error costs it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import warmup

from hetero_plugin.config import NoiseConfig
from hetero_plugin.evaluation import stats
from hetero_plugin.hf import unwrap, wrap
from hetero_plugin.miniature import model as miniature
from hetero_plugin.miniature import task

LEVELS = (0.0, 0.02, 0.05, 0.10, 0.20)


def warmed_up(seed: int) -> tuple[Any, warmup.Encoder, task.Splits, warmup.WarmupResult]:
    """The miniature of `make.py`'s defaults after its warm-up, with what it was trained on."""
    drawn: dict[str, Any] = {"digits": 5, "operands": 2, "seed": seed}
    splits = task.make_splits(**drawn, n_train=4096, n_dev=500, n_test=1000)
    encoder = warmup.Encoder(miniature.build_tokenizer(), splits.dev[0], longest_answer=6)
    model = miniature.build_model(miniature.MiniatureShape(), seed)
    stream = task.training_stream(**drawn, held_out=splits.held_out)
    result = warmup.warm_up(model, encoder, stream, splits.dev, warmup.WarmupSettings())
    return model, encoder, splits, result


def accuracy_by_level(
    model: Any,
    encoder: warmup.Encoder,
    questions: Sequence[task.Question],
    spec: NoiseConfig,
    levels: Sequence[float],
) -> dict[float, float]:
    """Greedy exact-match of a clean model at each noise level; the model is returned clean."""
    found = {}
    for level in levels:
        rules = tuple(rule.replace(scale=level) for rule in spec.rules)
        wrap(model, spec.replace(rules=rules), quiet=True)
        try:
            found[level] = warmup.exact_match(model, encoder, questions)
        finally:
            unwrap(model)
    return found


def main() -> None:
    """Measure and print, one line for each seed and level."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--levels", type=float, nargs="+", default=list(LEVELS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for seed in arguments.seeds:
        cpu = time.process_time()
        model, encoder, splits, result = warmed_up(seed)
        print(
            f"seed {seed}: {result.parameters} parameters, {result.steps} steps in "
            f"{result.seconds:.0f} s ({time.process_time() - cpu:.0f} s of CPU time), "
            f"{result.accuracy:.1%} of {result.n_dev} development questions",
            flush=True,
        )
        spec = NoiseConfig.parse("qerl-fp4").replace(seed=seed)
        found = accuracy_by_level(model, encoder, splits.test, spec, arguments.levels)
        for level, share in found.items():
            hits = round(share * len(splits.test))
            interval = stats.wilson(hits, len(splits.test))
            print(
                f"  error {level:5.1%}: {share:6.1%} of n={len(splits.test)} "
                f"(95 % interval {interval.low:.1%} to {interval.high:.1%})",
                flush=True,
            )


if __name__ == "__main__":
    main()
