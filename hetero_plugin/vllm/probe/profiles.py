"""Whether a worker's operators of profiles draw what the profiles say.

As `hetero_plugin.vllm.probe.formats`: each operator that a layer's chain holds is called as
compiled code calls it, on one fixed tensor. The result is to be the reference's to the bit, and the
sums to be the table's (`hetero_plugin.attestation.profiles`).
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from torch import nn

from hetero_plugin.attestation.formats import Checks
from hetero_plugin.attestation.profiles import ProfileLook
from hetero_plugin.errors.profile import replay_of
from hetero_plugin.state import Draw, NoiseState
from hetero_plugin.vllm.probe.keys import chains

_ROWS = 32


def profile_checks(model: nn.Module, state: NoiseState) -> Checks:
    """Checks of every chain of a model that is one profile: (name, passed, detail).

    Args:
        model: a worker's, with its noise.
        state: the model's; its scales are neither read nor written.
    """
    look, differ = ProfileLook(), []
    for chain in chains(model):
        stage = chain.stages[0] if len(chain.stages) == 1 else None
        if stage is None or stage.profile is None:
            continue
        dtypes = replay_of(stage.error).tables
        generator = torch.Generator().manual_seed(chain.width)
        x = torch.randn(_ROWS, chain.width, generator=generator)
        x = (x * torch.logspace(-2, 2, _ROWS)[:, None]).to(next(iter(dtypes)))
        x = x.to(state.draw.clock.device)
        keys = torch.arange(_ROWS, dtype=torch.int64, device=x.device) << 32
        draw = Draw(keys, state.draw.clock, torch.ones_like(state.draw.scales))
        whole = x.unflatten(-1, (chain.heads, -1)) if chain.heads > 1 else x
        y = chain(whole, draw).reshape(x.shape)
        right = torch.ops.hetero_noise.perturb_reference(
            x, *draw, stage.segments, stage.error, stage.stochastic
        )
        edges = accumulate([0, *(part[1] for part in chain.parts)])
        rows = stage.segments.tolist()
        for (name, _, _), (start, end), row in zip(chain.parts, pairwise(edges), rows, strict=True):
            if not row[3]:  # no rule selects this part
                continue
            part = slice(start, end)
            look.add(name, stage.error, 1.0, x[:, part], y[:, part])
            if not torch.equal(y[:, part], right[:, part]):
                differ.append(name)
    checks = look.checks()
    if look.seen:
        told = "; ".join(differ[:8]) or f"all {len(look.seen)}"
        checks.append(("profiles: values are the reference's", not differ, told))
    return checks
