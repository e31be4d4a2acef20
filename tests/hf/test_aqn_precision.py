"""``aqn.precision``: float32 offsets, and what adding to the parameter would have made of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hetero_plugin import AQN, AQNConfig, wrap
from hetero_plugin.hf import state_of
from tests.hf.conftest import tiny

IDS = torch.arange(1, 33).reshape(2, 16)


def config(sigma: float, precision: str) -> AQNConfig:
    return AQNConfig(
        schedule="constant", sigma_start=sigma, total_steps=4, precision=precision, seed=3
    )


def added_in_place(model: Any, noise: Callable[[str], torch.Tensor]) -> Any:
    """QeRL's way, on a copy: the noise, in the weight's dtype, added to the parameter."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in changed.named_modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.weight.add_(noise(name).to(module.weight.dtype))
    return changed


@pytest.mark.parametrize("sigma", [0.05, 5e-4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_param_is_the_addition_to_the_parameter_bit_for_bit(
    sigma: float, dtype: torch.dtype
) -> None:
    model = tiny(dtype)
    reference = copy.deepcopy(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    wrap(model, {"scale": 0.0, "targets": ["norm"]})
    AQN(model, config(sigma, "param")).step(2)
    offsets = state_of(model).aqn
    assert offsets is not None and offsets.offsets.any()
    with torch.no_grad():
        noisy = model(IDS).logits
        changed = added_in_place(reference, offsets.view)
        assert torch.equal(noisy, changed(IDS).logits)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_small_sigma_is_real_in_float32_and_mostly_vanishes_in_bfloat16_parameters() -> None:
    """Half an ulp of bfloat16 is 2^-9 of the weight; sigma is a quarter of that at 1."""
    model = tiny(torch.bfloat16)
    weight = model.model.norm.weight.detach().float()
    wrap(model, {"scale": 0.0, "targets": ["norm"]})
    AQN(model, config(5e-4, "param")).step(2)
    offsets = state_of(model).aqn
    assert offsets is not None
    from hetero_plugin.aqn import shifted_weight

    offset = offsets.view("model.norm")
    moved = shifted_weight(weight.bfloat16(), offset, True) != weight
    real = shifted_weight(weight.bfloat16(), offset, False) != weight
    assert real.all() and moved.float().mean() < 0.5


def test_the_precision_follows_the_controller() -> None:
    """Two controllers in turn on one model: the offsets are added as the later one says."""
    model = tiny(torch.bfloat16)
    wrap(model, {"scale": 0.0, "targets": ["norm"]})
    with torch.no_grad():
        seen = []
        for precision in ("param", "float32", "param"):
            AQN(model, config(0.01, precision)).step(1)
            seen.append(model(IDS).logits)
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])
