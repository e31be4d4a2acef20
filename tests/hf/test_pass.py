"""What was set when a forward pass began holds for its recomputation and its backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hetero_plugin import AQN, AQNConfig, NoiseConfig
from hetero_plugin.hf import disabled, phase, set_step, state_of, wrap
from hetero_plugin.hf.context import MissingRows
from tests.hf.families import make_family, tokens

SPEC = NoiseConfig(
    preset="all-ops",
    phase="train",
    aqn=AQNConfig(schedule="constant", sigma_start=0.05, total_steps=4),
)


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["plain", "no-reentrant", "yes"])
def test_backward_after_everything_was_set_otherwise(checkpointing: bool | None) -> None:
    model, ids = wrap(make_family("qwen3"), SPEC, quiet=True).train(), tokens()
    aqn, state = AQN(model), state_of(model)
    aqn.step(1)
    with phase(model, "train"):
        wanted = gradients(model, model(ids, labels=ids).loss)
    with disabled(model):
        clean = gradients(model, model(ids, labels=ids).loss)
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    with phase(model, "train"), aqn.at(1):
        loss = model(ids, labels=ids).loss
    # No phase, no offsets, another step, other scales, and a forward pass of other tokens between.
    set_step(model, 5)
    state.set_scale(0.0)
    with torch.no_grad(), disabled(model):
        model(ids.flip(1))
    found = gradients(model, loss)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not any(torch.equal(found[name], clean[name]) for name in wanted)
    # And the other way round: a clean forward pass has clean gradients under noise.
    state.reset_scales()
    with disabled(model):
        loss = model(ids, labels=ids).loss
    aqn.step(1)
    with phase(model, "train"):
        found = gradients(model, loss)
    assert all(torch.equal(found[name], clean[name]) for name in clean)


def test_a_layer_after_the_pass_has_no_rows() -> None:
    model, ids = wrap(make_family("qwen2"), "linear"), tokens()
    model(ids)
    hidden = torch.randn(2, 9, 32)
    with pytest.raises(MissingRows, match="outside its model's forward pass"):
        model.lm_head(hidden)
    broken = model.model.norm.register_forward_hook(lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(ids)
    broken.remove()
    with pytest.raises(MissingRows, match="outside its model's forward pass"):
        model.lm_head(hidden)
    model(ids)
