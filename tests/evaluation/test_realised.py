"""Realised error on the activations of a real (random) Qwen2, in bf16 and in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hetero_plugin import NoiseConfig, wrap
from hetero_plugin.attestation.sums import Realised
from hetero_plugin.evaluation import realised, tasks
from hetero_plugin.miniature import task as arithmetic
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save
from tests.models import qwen2

IDS = torch.arange(4 * 32).reshape(4, 32) * 7 % 256


def model(dtype: torch.dtype) -> Any:
    return qwen2(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_asked_is_what_arrives(dtype: torch.dtype) -> None:
    """RMS of z over some 30,000 elements a kind has a standard error under 0.5 %."""
    noisy = wrap(model(dtype), NoiseConfig(preset="all-ops", scale=0.05))
    rows = realised.measure(noisy, [IDS])
    kinds = {row["kind"]: row for row in realised.by_kind(rows)}
    assert {kind: row["sites"] for kind, row in kinds.items()} == {
        "linear": 14,
        "norm": 5,
        "activation": 2,
        "attention": 2,
        "lm_head": 1,
    }
    for row in kinds.values():
        assert row["asked"] == 0.05
        assert row["rms_relative"] == pytest.approx(0.05, rel=0.03)
        assert row["sqnr_db"] == pytest.approx(26.0, abs=0.5)  # -20 log10(0.05)
        assert abs(row["bias"]) < 0.002
        # In bf16, errors under some 0.3 % of a value (5 % of the draws here) may round away.
        assert row["changed"] > (0.999 if dtype is torch.float32 else 0.93)


def test_nearest_rounding_swallows_what_stochastic_keeps() -> None:
    """An error of 1e-4 in bf16, where half an ulp is at least 2^-9 = 2e-3."""
    found = {}
    for rounding in ("nearest", "stochastic"):
        noisy = wrap(model(torch.bfloat16), NoiseConfig(scale=1e-4, rounding=rounding))
        found[rounding] = realised.by_kind(realised.measure(noisy, [IDS]))[0]
    assert found["nearest"]["changed"] == 0.0 and found["nearest"]["rms_relative"] == 0.0
    assert found["nearest"]["sqnr_db"] is None
    assert 0.005 < found["stochastic"]["changed"] < 0.1


def test_scale_zero_changes_nothing() -> None:
    noisy = wrap(model(torch.bfloat16), NoiseConfig(scale=0.0))
    (row,) = realised.by_kind(realised.measure(noisy, [IDS]))
    assert row["changed"] == 0.0 and row["bias"] == 0.0 and row["sqnr_db"] is None


def test_a_site_that_never_ran_is_an_error() -> None:
    noisy = wrap(model(torch.float32), NoiseConfig(preset="all"))
    with pytest.raises(RuntimeError, match="20 selected sites never ran"):
        realised.measure(noisy, [])


def test_a_checkpoint_is_measured_on_its_questions(tmp_path: Path) -> None:
    save(build_model(MiniatureShape(layers=1), 0), build_tokenizer(), tmp_path / "model")
    splits = arithmetic.make_splits(digits=3, operands=2, n_train=2, n_dev=2, n_test=20, seed=0)
    path = arithmetic.write_parquet(arithmetic.to_rows(splits.test, "test"), tmp_path / "t.parquet")
    config = NoiseConfig(preset="linear", scale=0.1)
    told: list[tuple[int, int]] = []
    found = realised.measure_checkpoint(
        tmp_path / "model",
        config,
        tasks.load_task(path),
        scale=0.05,
        progress=lambda done, of: told.append((done, of)),
    )
    assert told[-1] == (20, 20), "there is a sign of life"
    assert {row["kind"] for row in found["by_kind"]} == {"linear", "lm_head"}
    assert all(row["asked"] == 0.05 for row in found["by_kind"])
    assert len(found["sites"]) == 8
    assert all(
        row["rms_relative"] == pytest.approx(0.05, rel=0.15) for row in found["sites"].values()
    )


@pytest.mark.parametrize("shape", [(7,), (3, 50), (50, 3), (4, 5, 6), (1, 1, 97)])
def test_sums_in_parts_are_those_of_the_whole(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    x.view(-1)[2] = 0.0
    y = x * (1 + 0.1 * torch.randn(shape, generator=generator))
    whole, parts = Realised(), Realised()
    whole.add(x.mT if x.ndim > 1 else x, y.mT if y.ndim > 1 else y)
    monkeypatch.setattr("hetero_plugin.attestation.sums.ELEMENTS", 5)
    parts.add(x, y)
    assert parts.summary() == {key: pytest.approx(v) for key, v in whole.summary().items()}
    assert parts.elements == x.numel() and parts.changed == int((x != y).sum())
