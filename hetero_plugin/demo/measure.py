"""`python -m hetero_plugin.demo.measure`: is the generated task hard enough to feel the error?

Warms the miniature up once for each seed and prints its greedy exact-match on the test set under
relative Gaussian error on every linear layer but the head, as a plain Hugging Face model. The
model has never trained under noise; what it loses is what hardware error costs it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch

from hetero_plugin.config import NoiseConfig
from hetero_plugin.demo import data, settings, task, warmup
from hetero_plugin.demo import model as miniature
from hetero_plugin.evaluation import stats
from hetero_plugin.hf import unwrap, wrap

LEVELS = (0.0, 0.02, 0.05, 0.10, 0.20)


def warmed_up(
    chosen: settings.DemoSettings,
) -> tuple[Any, warmup.Encoder, task.Splits, warmup.WarmupResult]:
    """The miniature of these settings after its warm-up, with what it was trained on."""
    splits = data.generate(chosen.task, chosen.seed)
    tokenizer = miniature.build_tokenizer()
    encoder = warmup.Encoder(tokenizer, splits.dev[0], chosen.task.longest_answer)
    model = miniature.build_model(chosen.shape, chosen.seed)
    stream = task.training_stream(
        digits=chosen.task.digits,
        operands=chosen.task.operands,
        seed=chosen.seed,
        held_out=splits.held_out,
    )
    result = warmup.warm_up(model, encoder, stream, splits.dev, chosen.warmup)
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
        chosen = settings.short(seed=seed)
        cpu = time.process_time()
        model, encoder, splits, result = warmed_up(chosen)
        print(
            f"seed {seed}: {result.parameters} parameters, {result.steps} steps in "
            f"{result.seconds:.0f} s ({time.process_time() - cpu:.0f} s of CPU time), "
            f"{result.accuracy:.1%} of {result.n_dev} development questions",
            flush=True,
        )
        spec = chosen.evaluation_spec()
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
