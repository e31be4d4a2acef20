"""How far it is from a layer's forward to the operator, for whoever follows a value by reading."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from hetero_plugin import NoiseConfig
from hetero_plugin.hf import wrap
from hetero_plugin.operator import record
from tests.hf.families import make_family, tokens

POINTS = {
    "rules": [
        {"targets": ["linear", "norm", "activation", "attention"], "scale": 0.1},
        {"targets": ["linear", "norm", "activation"], "scale": 0.1, "point": "input"},
        {"targets": ["linear"], "scale": 0.1, "point": "weight"},
    ]
}


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_operator_is_at_most_four_calls_away(family: str, dtype: torch.dtype) -> None:
    """Of every kind and point, also of norms of heads: `[B, T, H, D]` and `[B, H, T, D]`."""
    model = wrap(make_family(family, dtype), NoiseConfig.parse(POINTS), quiet=True)
    calls: dict[tuple[str, str], int] = {}

    def count(sites: tuple[str, ...], stream: str, before: Any, after: Any) -> None:
        away, frame = 1, inspect.currentframe()  # the chain's call of the operator
        frame = None if frame is None else frame.f_back
        while frame is not None and frame.f_code.co_name != "forward":
            away += "hetero_plugin" in frame.f_code.co_filename
            frame = frame.f_back
        calls[sites[0].rpartition(".")[2], stream] = away

    with record(count):
        model(tokens())
    assert max(calls.values()) == 4
    assert calls["q_proj", "output"] == calls["norm", "input"] == 3
    assert (
        calls["q_proj", "input"] == calls["q_proj", "weight"] == calls["self_attn", "output"] == 4
    )
    assert family == "qwen2" or calls["q_norm", "output"] == 3
