"""vLLM's opaque operators against the formulas that the Hugging Face layers use."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("vllm")

from hetero_plugin.vllm import ops


@pytest.mark.parametrize("in_dtype", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_norm_weighs_with_its_offset_as_asked(shift: float, in_dtype: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    unit, weight = (torch.randn(*size, generator=generator).bfloat16() for size in ((7, 96), (96,)))
    offset = torch.randn(96, generator=generator) * 5e-4
    clean = unit * 2
    got = ops.weigh(clean, unit, weight, offset, shift, in_dtype)
    # A float64 reference of the same sum, rounded where the precision says so.
    added = weight + offset.bfloat16() if in_dtype else weight.double() + offset.double()
    expected = unit.double() * (added.double() + shift)
    error = (got.double() - expected).abs() / expected.abs().clamp_min(1e-30)
    assert error.max() <= 2**-8  # one rounding to bfloat16
    other = ops.weigh(clean, unit, weight, offset, shift, not in_dtype)
    assert not torch.equal(got, other)
    off = ops.weigh(clean, unit, weight, torch.zeros(96), shift, in_dtype)
    assert torch.equal(off, clean)
