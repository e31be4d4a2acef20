"""A model as it is, as another machine, and with an error of its own. About 10 s."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hetero_plugin import NoiseConfig
from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation.fidelity.machines import as_machine, compared
from hetero_plugin.evaluation.fidelity.three import side_by_side
from hetero_plugin.profile.operators.variants import variant
from tests.models import qwen2

KINDS = ("linear", "norm", "activation")


def windows(count: int = 24) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 100, (24,), generator=generator) for _ in range(count)]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.stack(windows(2)), use_cache=False).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_machine_is_there_within_and_gone_afterwards(dtype: torch.dtype) -> None:
    model = qwen2(dtype).eval()
    before = logits(model)
    with as_machine(model, variant("plain")):
        assert torch.equal(logits(model), before)
    with as_machine(model, variant("gaussian:0.05")):
        one = logits(model)
    assert not torch.equal(one, before)
    assert torch.equal(logits(model), before)
    assert not any("forward" in module.__dict__ for module in model.modules())
    with as_machine(model, variant("gaussian:0.05"), ["norm"]):
        assert not torch.equal(logits(model), one)
    with (
        pytest.raises(ConfigError, match="attention: the model has no such operators"),
        as_machine(model, variant("plain"), ["attention"]),
    ):
        pass


def test_an_error_that_is_the_machines_is_within_and_a_larger_one_is_not() -> None:
    model = qwen2(torch.bfloat16).eval()
    rule = {
        "targets": list(KINDS),
        "exclude": ["lm_head"],
        "error": "relative_gaussian",
        "direction": "forward",
    }
    before = logits(model)

    def found(scale: float) -> dict:
        noise = NoiseConfig(seed=3, rules=[{**rule, "scale": scale}])
        return compared(model, windows(), variant("gaussian:0.02"), noise, KINDS)

    same = found(0.02)
    assert same["within"]["kl"] and same["within"]["gap"]
    assert same["ratio"]["kl"]["low"] < 1 < same["ratio"]["kl"]["high"]
    # Two independent errors: A with the error is further from B than from A.
    assert same["pairs"]["profile_b"]["kl"]["value"] > 1.3 * same["pairs"]["a_b"]["kl"]["value"]
    larger = found(0.06)
    assert not larger["within"]["kl"] and larger["ratio"]["kl"]["low"] > 3
    assert torch.equal(logits(model), before)


def test_machines_that_agree_have_no_ratio() -> None:
    rows = {
        "kl": np.zeros(5),
        "delta_logp": np.zeros(5),
        "delta_p": np.zeros(5),
        "same_top": np.ones(5),
    }
    pairs = {"a_b": rows, "a_profile": rows, "profile_b": rows}
    found = side_by_side([pairs] * 8)
    assert found["ratio"] == {"kl": None, "gap": None, "flips": None}
    assert found["within"] == {"kl": True, "gap": True, "flips": True}
    with pytest.raises(ValueError, match="7 windows"):
        side_by_side([pairs] * 7)
