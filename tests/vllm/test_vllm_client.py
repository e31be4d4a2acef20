"""Answers of several ranks are one answer, or an error that names the rank."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("vllm")

from hetero_plugin.vllm.client.calls import RanksDisagree, agreed


def status(rank: int, **changes: Any) -> dict[str, Any]:
    return {"noisy": True, "rank": rank, "scales": {"linear": [0.05]}, "step": 3, **changes}


def test_ranks_that_agree_are_one_answer() -> None:
    answers = [
        status(0, pid=41, compiled={"frames": 1}),
        status(1, pid=42, compiled={"frames": 2}, device="cpu:1"),
    ]
    assert agreed("hetero_noise_status", answers) is answers[0]
    nan = [{"name": "a", "scales": [float("nan")]}]  # a phase that is not set
    assert agreed("hetero_noise_sites", [nan, [{"name": "a", "scales": [float("nan")]}]]) == nan


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (status(2, scales={"linear": [0.04]}), "0.04"),
        (status(2, step=4), "step"),
        ({"noisy": False, "rank": 2}, "noisy"),
    ],
)
def test_a_rank_that_differs_is_named_with_what_differs(other: dict[str, Any], said: str) -> None:
    with pytest.raises(RanksDisagree) as caught:
        agreed("hetero_noise_status", [status(0), status(1), other])
    assert "of 3 ranks, 2 answered otherwise" in str(caught.value) and said in str(caught.value)


def test_sites_are_compared_one_by_one() -> None:
    sites = [{"name": "a", "scales": [0.1]}, {"name": "b", "scales": [0.1]}]
    lost = [sites[0], {"name": "b", "scales": [0.0]}]
    with pytest.raises(RanksDisagree, match=r'"b".*0\.0'):
        agreed("hetero_noise_sites", [sites, lost])
    with pytest.raises(RanksDisagree, match="another number"):
        agreed("hetero_noise_sites", [sites, sites[:1]])
    with pytest.raises(RanksDisagree, match="no worker"):
        agreed("hetero_noise_sites", [])
