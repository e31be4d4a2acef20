"""Seed-matched samples: against hand-computed distributions and plain integers. About 3 s."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from hetero_plugin.attestation.sampling import gumbel, same_sample
from hetero_plugin.evaluation.fidelity.sampled import SAME, agreement, sentence, summarise
from hetero_plugin.random import mix64, seed_base

U32 = (1 << 32) - 1


def mixed(word: int) -> int:
    word ^= word >> 16
    word = word * 0x7FEB352D & U32
    word ^= word >> 15
    word = word * 0x846CA68B & U32
    return word ^ (word >> 16)


def by_hand(seed: int, prompt: list[int], position: int, token: int) -> float:
    """One number in plain integers and float64."""
    content = b"".join(id_.to_bytes(8, "little") for id_ in prompt)
    text = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    base = seed_base(seed) & ((1 << 64) - 1)
    key = mix64(mix64(text ^ base) + position)
    bits = mixed(mixed(mixed(token) ^ (key & U32)) ^ (key >> 32))
    return -math.log(-math.log1p(-(bits + 0.5) / 2**32))


def test_numbers_are_functions_of_seed_prompt_position_and_token() -> None:
    prompt = torch.tensor([5, 0, 151_000])
    found = gumbel(-3, prompt, range(2, 4), 151_936)
    assert found.shape == (2, 151_936) and bool(found.isfinite().all())
    for position, token in ((2, 0), (3, 1), (2, 77_777), (3, 151_935)):
        want = by_hand(-3, prompt.tolist(), position, token)
        assert float(found[position - 2, token]) == pytest.approx(want, rel=1e-6, abs=1e-6)
    assert torch.equal(gumbel(-3, prompt, range(3, 4), 900)[0], found[1, :900])
    assert not torch.equal(gumbel(-2, prompt, range(3, 4), 900)[0], found[1, :900])
    assert not torch.equal(gumbel(-3, prompt[:2], range(3, 4), 900)[0], found[1, :900])


def test_they_are_gumbel_and_independent() -> None:
    drawn = gumbel(1, torch.tensor([1]), range(400), 1000).double()
    uniform = torch.exp(-torch.exp(-drawn)).numpy()
    counts, _ = np.histogram(uniform, bins=100, range=(0, 1))
    chi2 = ((counts - 4000) ** 2 / 4000).sum()
    assert chi2 < 99 + 5 * math.sqrt(2 * 99)
    shape = uniform - 0.5
    for a, b in ((shape[1:], shape[:-1]), (shape[:, 1:], shape[:, :-1]), (shape[::2], shape[1::2])):
        assert abs(12 * (a * b).mean()) < 5 / math.sqrt(a.size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_how_often_two_distributions_give_one_token(dtype: torch.dtype) -> None:
    """P(both are v) = 1 / Σ_w max(p_w / p_v, q_w / q_v); of two tokens 1 - |p - q|."""
    count = 40_000
    rng = np.random.default_rng(0)
    for size in (2, 5):
        logits = torch.from_numpy(rng.normal(size=(2, size))).to(dtype)
        p, q = torch.softmax(logits.double(), -1).numpy()
        want = sum(1 / np.maximum(p / p[v], q / q[v]).sum() for v in range(size))
        if size == 2:
            assert want == pytest.approx(1 - abs(p[0] - q[0]))
        clean, noisy = (row.expand(count, size) for row in logits)
        same = same_sample(clean, noisy, torch.arange(count), 4)
        assert abs(same.mean() - want) < 5 * math.sqrt(want * (1 - want) / count)
        drawn = (clean.float() + gumbel(4, torch.arange(count), range(count), size)).argmax(-1)
        for v in range(size):
            share = float((drawn == v).double().mean())
            assert abs(share - p[v]) < 5 * math.sqrt(p[v] * (1 - p[v]) / count)


def test_equal_distributions_agree_everywhere_and_others_by_no_slice() -> None:
    logits = torch.randn(70, 33, generator=torch.Generator().manual_seed(0))
    logits[:, 4] = -torch.inf
    ids = torch.arange(70)
    assert same_sample(logits, logits + 1, ids, 0).tolist() == [1.0] * 70
    apart = torch.full_like(logits, -100.0)
    apart[:, 7] = 100.0
    certain = torch.full_like(logits, -100.0)
    certain[:, 8] = 100.0
    assert same_sample(apart, certain, ids, 0).tolist() == [0.0] * 70


def windows(rng: np.random.Generator, share: float, count: int = 40) -> list[dict[str, np.ndarray]]:
    return [{SAME: (rng.random(100) >= share).astype(float)} for _ in range(count)]


def test_the_summary() -> None:
    rows = [{SAME: np.array([1.0, 1, 0, 1])}, {SAME: np.array([1.0, 1, 1, 1])}]
    floor = [{SAME: np.ones(4)}] * 2
    found = summarise(rows, floor)
    assert found["agree"] == {"value": 0.875, "low": None, "high": None}
    assert found["of_300"]["value"] == 262.5
    assert found["tokens_to_first"]["value"] == 7.0, "3 of the first window and 4 of one without"
    assert found["detector"] is None, "8 tokens are no 300"
    clean = agreement(floor)
    assert clean["of_300"]["value"] == 300.0 and clean["tokens_to_first"]["value"] is None
    with pytest.raises(ValueError, match="should be the same"):
        summarise(rows, floor[:1])


def test_the_detector() -> None:
    rng = np.random.default_rng(3)
    floor = windows(rng, 0.002)
    weak, strong = (summarise(windows(rng, share), floor, draws=60) for share in (0.006, 0.05))
    blind = summarise(windows(rng, 0.002), floor, draws=60)
    for found in (weak, strong, blind):
        detector = found["detector"]
        assert detector["runs"] == 13 and detector["false_alarms"] <= 0.01
        for name in ("rate", "auc"):
            row = detector[name]
            assert row["low"] <= row["value"] <= row["high"]
    assert strong["detector"]["rate"]["value"] == strong["detector"]["auc"]["value"] == 1.0
    assert blind["detector"]["auc"]["low"] < 0.5 < blind["detector"]["auc"]["high"]
    assert 0.6 < weak["detector"]["auc"]["value"] < 1.0
    assert "of 300 tokens agree" in sentence(weak) and "false alarms" in sentence(weak)
    assert strong["of_300"]["low"] < 285 < strong["of_300"]["high"]
    perfect = [{SAME: np.ones(100)}] * 40
    detector = summarise(windows(rng, 0.05), perfect, draws=20)["detector"]
    assert (detector["threshold"], detector["false_alarms"]) == (1, 0.0)
