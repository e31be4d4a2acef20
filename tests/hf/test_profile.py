"""Measured profiles in Hugging Face models: padding, steps, recomputation, the compiler. 30 s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hetero_plugin import NoiseConfig, disabled, state_of, wrap
from hetero_plugin.attestation import attest
from hetero_plugin.hf.probe import HFProbe
from tests.errors.profiles import mild, written
from tests.models import qwen2

IDS = torch.arange(5, 29).remainder(251).reshape(2, 12)


def config(folder: Path, fresh: float = 0.0) -> NoiseConfig:
    path = written(mild(0.3, fresh), folder)
    return NoiseConfig(targets=["linear", "norm", "activation"], error="profile", path=path)


def logits(model: Any, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(use_cache=False, **inputs).logits.float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_row_has_its_error_under_left_padding(tmp_path: Path, dtype: torch.dtype) -> None:
    """Eager. Padding itself moves the clean model's sums: noisy, no more than twice as far."""
    model = wrap(qwen2(dtype).eval(), config(tmp_path))
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), IDS[:1]], 1)
    mask = (torch.arange(17) >= 5).long()[None]

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        there = logits(model, input_ids=padded, attention_mask=mask)[:, 5:]
        return logits(model, input_ids=IDS[:1]), there

    alone, there = both()
    with disabled(model):
        clean, clean_there = both()
    error, moved = (alone - clean).square().mean(), (there - alone).square().mean()
    assert moved <= 2 * (clean_there - clean).square().mean() and error > 8 * moved > 0


@pytest.mark.parametrize("fresh", [0.0, 1.0])
def test_only_what_is_fresh_is_drawn_anew(tmp_path: Path, fresh: float) -> None:
    model = wrap(qwen2(torch.bfloat16).eval(), config(tmp_path, fresh))
    first = logits(model, input_ids=IDS)
    assert torch.equal(first, logits(model, input_ids=IDS)), "one step"
    state_of(model).set_step(7)
    assert torch.equal(first, logits(model, input_ids=IDS)) == (fresh == 0.0)


def test_recomputed_activations_have_the_error_they_had(tmp_path: Path) -> None:
    """bfloat16; and the gradient is passed straight through."""

    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = wrap(qwen2(torch.bfloat16).train(), config(tmp_path))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain, again = gradients(False), gradients(True)
    assert len(plain) == len(again) > 0
    assert all(map(torch.equal, plain, again)) and all(bool(g.isfinite().all()) for g in plain)


@pytest.mark.slow
def test_a_compiled_model_is_attested(tmp_path: Path) -> None:
    probe = HFProbe.wrapping(qwen2(torch.bfloat16), config(tmp_path), compiled=True)
    record = attest(probe)
    assert record["passed"], [check for check in record["checks"] if not check["passed"]]
