"""Libraries that change a layer's class after wrap keep it through update and unwrap."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from hetero_plugin import NoiseConfig, unwrap, update, wrap
from tests.hf.conftest import tiny

IDS = torch.randint(1, 272, (2, 9), generator=torch.Generator().manual_seed(1))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


class Masked(nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.mask = weight.abs() > weight.abs().median()

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask


def test_pruning_and_norming_of_a_noisy_model() -> None:
    """A user masks some weights and norms the head of a model that is wrapped."""

    def change(model: Any) -> Any:
        for layer in model.model.layers:
            proj = layer.mlp.gate_proj
            parametrize.register_parametrization(proj, "weight", Masked(proj.weight))
        parametrizations.weight_norm(model.lm_head)
        return model

    clean = change(tiny())
    model = change(wrap(tiny(), NoiseConfig(scale=0.1, targets=["linear", "lm_head"])))
    noisy = logits(model)
    assert not torch.equal(noisy, logits(clean))
    update(model, NoiseConfig(scale=0.1, targets=["linear", "lm_head"]))
    assert torch.equal(logits(model), noisy)
    unwrap(model)
    assert torch.equal(logits(model), logits(clean))
    assert parametrize.is_parametrized(model.lm_head)
    parametrize.remove_parametrizations(model.lm_head, "weight")
    assert type(model.lm_head) is nn.Linear
