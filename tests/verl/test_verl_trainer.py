"""Metrics: their names, their arithmetic, and what a step's numbers mean."""

from __future__ import annotations

import pytest
import torch

from hetero_plugin.verl.realised import RealisedError
from hetero_plugin.verl.trainer import log_prob_gap, noisy_names, rollout_metrics


def test_the_gap_counts_response_tokens_only() -> None:
    old = torch.tensor([[-1.0, -2.0, -9.0]])
    rollout = torch.tensor([[-1.5, -2.0, 0.0]])
    gap = log_prob_gap(old, rollout, torch.tensor([[1, 1, 0]]))
    assert gap == {
        "hetero/rollout_actor_logprob_gap/mean": 0.25,
        "hetero/rollout_actor_logprob_gap/max": 0.5,
    }
    assert log_prob_gap(old, rollout, torch.zeros(1, 3)) == {}


def test_noisy_validation_has_names_of_its_own() -> None:
    given = {"val-core/openai/gsm8k/acc/mean@1": 0.5, "val-aux/num_turns/min": 2.0}
    assert noisy_names(given) == {"hetero/val_noisy/openai/gsm8k/acc/mean@1": 0.5}


def test_one_worker_that_is_off_shows() -> None:
    on = {"sites": {"linear": 3}, "enabled": True}
    metrics = rollout_metrics([on, {**on, "enabled": False}])
    assert metrics["hetero/rollout/enabled"] == 0.0
    assert metrics["hetero/rollout/workers"] == 2.0
    assert metrics["hetero/rollout/sites/linear"] == 3.0


def test_realised_error_is_that_of_the_first_call_of_each_site() -> None:
    measure = RealisedError({"a": "linear", "b": "norm"})
    x = torch.tensor([3.0, 4.0, 0.0, 0.0])
    measure(("a",), "output", x, x * 1.1)
    measure(("a",), "output", x, x * 2.0)  # a later micro-batch
    measure(("a",), "grad_input", x, x * 1.5)
    measure(("b",), "output", x, x)
    metrics = measure.metrics()
    assert metrics["hetero/realised_error/linear"] == [pytest.approx(0.1, rel=1e-5)]
    assert metrics["hetero/realised_error/linear.grad_input"] == [pytest.approx(0.5, rel=1e-5)]
    assert metrics["hetero/realised_changed/linear"] == [0.5]
    assert metrics["hetero/realised_error/norm"] == [0.0]
