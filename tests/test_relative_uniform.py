"""The error model relative_uniform: equal in all implementations, bounded, of the size asked."""

from __future__ import annotations

import math

import pytest
import torch

from hetero_plugin.errors.resolution import share_changed
from hetero_plugin.kernels import KERNEL, reference
from hetero_plugin.operator import perturb
from tests.test_chain import CLOCK, DTYPES, ROWS, SITE, segments, values


@pytest.mark.skipif(KERNEL == "reference", reason="no native kernel on this machine: no compiler")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stochastic", [True, False])
def test_uniform_errors_are_the_references_bit_for_bit(
    dtype: torch.dtype, stochastic: bool
) -> None:
    """Nothing in them is approximated: integers, and the same few roundings."""
    x = values(dtype)
    x[0, :6] = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-7])
    parts = segments((300, SITE, 0, 1), (100, SITE + 1, 64, 0), (300, SITE + 2, 1000, 2))
    args = x, ROWS, CLOCK, torch.tensor([0.0, 0.05, 1e-3]), parts, "relative_uniform", stochastic
    ours, wanted = perturb(*args), reference.perturb(*args)
    assert torch.equal(ours.isnan(), wanted.isnan())
    bits = torch.int16 if x.element_size() == 2 else torch.int32
    there = ~wanted.isnan()
    assert torch.equal(ours.view(bits)[there], wanted.view(bits)[there])


@pytest.mark.parametrize("scale", [1e-3, 0.05, 0.5])
def test_uniform_errors_are_bounded_and_of_the_size_that_was_asked(scale: float) -> None:
    """float32: never beyond √3·s·|x| and its two roundings; RMS of 2·10^5 within 5 standard
    errors (a uniform's fourth moment is 9/5: of the mean square, √(0.8/n))."""
    torch.manual_seed(1)
    x = torch.randn(64, 3200)
    parts = segments((3200, SITE, 0, 1))
    y = perturb(x, ROWS, CLOCK, torch.tensor([0.0, scale]), parts, "relative_uniform")
    share = (y.double() - x.double()) / x.double() / scale
    assert share.abs().max() <= math.sqrt(3) + 2 * 2.0**-23 / scale
    assert share.abs().max() > math.sqrt(3) * 0.999
    n = share.numel()
    assert abs(share.mean()) < 5 / math.sqrt(n)
    assert abs(share.square().mean() - 1) < 5 * math.sqrt(0.8 / n)


@pytest.mark.parametrize("name", ["relative_gaussian", "relative_uniform"])
@pytest.mark.parametrize("scale", [1e-3, 2e-3, 1e-2])
def test_the_share_that_rounding_to_nearest_changes_is_as_said(name: str, scale: float) -> None:
    """Of 3·10^5 log-uniform numbers: within 5 standard errors, and 2 % for the 64 points."""
    torch.manual_seed(2)
    x = torch.exp2(torch.rand(64, 5000)).to(torch.bfloat16)
    y = perturb(x, ROWS, CLOCK, torch.tensor([scale]), segments((5000, SITE, 0, 0)), name, False)
    seen, said = (y != x).double().mean().item(), share_changed(scale, torch.bfloat16, name)
    n = x.numel()
    assert abs(seen - said) < 0.02 * said + 5 * math.sqrt(max(said * (1 - said), 1 / n) / n)
    if name == "relative_uniform":
        assert (seen == 0) == (scale * math.sqrt(3) < 2.0**-9)
