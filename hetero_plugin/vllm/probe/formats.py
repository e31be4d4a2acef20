"""Whether a worker's operators of number formats are the formats.

Compiled code hands no activations over. What it calls are the operators that the layers' chains
hold, with their segments; here each is called as compiled code does, on one fixed tensor, and the
result is looked at as in Hugging Face (`hetero_plugin.attestation.formats`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import nn

from hetero_plugin.attestation.formats import Checks, FormatLook
from hetero_plugin.errors import error_model
from hetero_plugin.operator import Chain
from hetero_plugin.state import Draw, NoiseState
from hetero_plugin.vllm.probe.keys import chains

_ROWS = 32


def format_checks(model: nn.Module, state: NoiseState) -> Checks:
    """Checks of every chain of a model that is one number format: (name, passed, detail).

    Args:
        model: a worker's, with its noise.
        state: the model's; its scales are neither read nor written.
    """
    look, twice = FormatLook(), []
    for chain in chains(model):
        if len(chain.stages) != 1 or not error_model(chain.stages[0].error).number_format:
            continue
        x = _sample(chain, state)
        keys = torch.zeros(_ROWS, dtype=torch.int64, device=x.device)
        draw = Draw(keys, state.draw.clock, torch.ones_like(state.draw.scales))
        whole = x.unflatten(-1, (chain.heads, -1)) if chain.heads > 1 else x
        y, again = (chain(whole, draw).reshape(x.shape) for _ in range(2))
        edges = accumulate([0, *(part[1] for part in chain.parts)])
        rows = chain.stages[0].segments.tolist()
        for (name, _, _), (start, end), row in zip(chain.parts, pairwise(edges), rows, strict=True):
            if not row[3]:  # no rule selects this part
                continue
            where = f"{name} ({chain.stream})"
            part = slice(start, end)
            look.add(where, chain.stages[0].error, 1.0, x[:, part], y[:, part])
            if not torch.equal(y[:, part], again[:, part]):
                twice.append(where)
    checks = look.checks()
    if look.seen:
        told = "; ".join(twice[:8]) or f"all {len(look.seen)}"
        checks.append(("formats: the same input twice is the same", not twice, told))
    return checks


def _sample(chain: Chain, state: NoiseState) -> torch.Tensor:
    """[rows, columns] bfloat16 of widths that differ, with a large number and a row of zeros."""
    generator = torch.Generator().manual_seed(chain.width)
    x = torch.randn(_ROWS, chain.width, generator=generator)
    x *= torch.logspace(-2, 2, _ROWS)[:, None]
    x[3, chain.width // 2] = 500.0
    x[5] = 0.0
    return x.bfloat16().to(state.draw.clock.device)


def of_ranks(found: Sequence[Checks]) -> Checks:
    """The checks of several ranks as one of each name, which fails where one of them does."""
    names = dict.fromkeys(name for each in found for name, _, _ in each)
    made: Checks = []
    for name in names:
        of_name = [
            (rank, passed, detail)
            for rank, each in enumerate(found)
            for one, passed, detail in each
            if one == name
        ]
        failed = [f"rank {rank}: {detail}" for rank, passed, detail in of_name if not passed]
        complete = len(of_name) == len(found)
        if not complete:
            failed.append("not every rank has such operators")
        made.append((name, not failed, "; ".join(failed) or of_name[0][2]))
    return made
