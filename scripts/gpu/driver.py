"""Every kernel at odd sizes, for a memory checker: ``python -m scripts.gpu.driver cuda``."""

from __future__ import annotations

import sys

import torch

from hetero_plugin import random
from hetero_plugin.errors import MODELS
from hetero_plugin.operator import perturb

SHAPES = ((1, 1), (3, 127), (5, 300), (64, 1536))


def main(device: str) -> int:
    """How many calls were made."""
    calls = 0
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for rows, columns in SHAPES:
            cut = columns // 3
            parts = [(cut, "a", 60, 1), (columns - cut, "b", 1, 2)] if cut else [(1, "a", 5, 1)]
            segments = torch.tensor(
                [[n, random.site_key(s, "output"), start, slot] for n, s, start, slot in parts]
            )
            keys = random.row_keys(torch.arange(rows), torch.arange(rows) * 3).to(device)
            clock = torch.tensor([random.clock_key(0, 1)], device=device)
            scales = torch.tensor([0.0, 0.05, 0.2], device=device)
            x = torch.randn(rows, columns, device=device).to(dtype)
            for name, model in MODELS.items():
                if not model.native:
                    continue
                y = perturb(x, keys, clock, scales, segments, name, True)
                torch.ops.hetero_noise.perturb_(
                    y, keys, clock, scales, segments, name, name == "relative_gaussian"
                )
                calls += 2
    if device == "cuda":
        torch.cuda.synchronize()
    return calls


if __name__ == "__main__":
    print(f"launched {main(sys.argv[1])} calls on {sys.argv[1]}")
