"""The operators before a layer's rounding, and the operator that writes row keys."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.operator import perturb

KEYS = random.row_keys(torch.arange(3, 9), torch.arange(6))
CLOCK = torch.tensor([random.clock_key(7, 3)])
SITE = random.site_key("model.norm", "output", 0)


def values(*shape: int) -> Tensor:
    """float32 that bfloat16 does not hold."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def segments(*widths: int) -> Tensor:
    return torch.tensor([[w, SITE + i, 0, i + 1] for i, w in enumerate(widths)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("error", "native"),
    [("relative_gaussian", True), ("absolute_gaussian", False), ("deadzone", False)],
)
@pytest.mark.parametrize("scales", [[0.0, 0.0, 0.0], [0.0, 0.1, 0.1], [0.0, 0.0, 0.1]])
def test_it_is_the_operator_on_the_rounded_tensor_or_nothing(
    scales: list[float], error: str, native: bool, dtype: torch.dtype
) -> None:
    table, x = torch.tensor(scales), values(6, 200)
    cuts = segments(200) if error == "deadzone" else segments(72, 128)
    y = x.clone()
    torch.ops.hetero_noise.perturb_unrounded_(
        y, dtype, KEYS, CLOCK, table, cuts, error, True, native
    )
    used = [scales[int(row[3])] for row in cuts]
    if any(used):
        op = torch.ops.hetero_noise.perturb if native else torch.ops.hetero_noise.perturb_reference
        right = op(x.to(dtype), KEYS, CLOCK, table, cuts, error, True)
        assert torch.equal(y, right.float())
        assert not torch.equal(right, x.to(dtype))
    else:
        assert torch.equal(y, x)
        assert not torch.equal(x, x.to(dtype).float())


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("sigma", [0.0, 0.05])
@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_a_norm_with_offsets(scale: float, sigma: float, heads: int) -> None:
    x, width = values(6 * heads, 32), 32
    offset = sigma * torch.cos(torch.arange(float(width)))
    unit, weight = (x / 2).bfloat16(), torch.full((width,), 2.0).bfloat16()
    cuts, table = segments(width * heads), torch.tensor([0.0, scale])
    rest = unit, weight, offset, 0.0, False, KEYS, CLOCK, table, cuts, "relative_gaussian", True
    y, right = x.clone(), x.bfloat16()
    torch.ops.hetero_noise.weighed_unrounded_(y, torch.bfloat16, *rest)
    torch.ops.hetero_noise.weighed_(right, *rest)
    if scale or sigma:
        assert torch.equal(y, right.float())
        assert not torch.equal(right, x.bfloat16())
    else:
        assert torch.equal(y, x)


def test_a_compiler_may_go_on_without_the_rounding() -> None:
    """What the operator is for: at scale 0 a compiled function gives what it gives without it."""
    table, weight = torch.zeros(2), values(64)

    def function(x: Tensor, noisy: bool) -> Tensor:
        y = (x.float() * weight).to(x.dtype)
        if noisy:
            y = y.float()
            keys = KEYS, CLOCK, table, segments(64), "relative_gaussian", True, True
            torch.ops.hetero_noise.perturb_unrounded_(y, x.dtype, *keys)
            y = y.to(x.dtype)
        return y * y + x

    x = values(6, 64).bfloat16()
    compiled = torch.compile(function, fullgraph=True)
    clean = compiled(x, False)
    assert torch.equal(compiled(x, True), clean)
    assert not torch.equal(function(x, False), clean), "here the compiler rounds as eager code does"
    table[1] = 0.1
    assert torch.equal(
        compiled(x, True),
        _fused(perturb((x.float() * weight).to(x.dtype), KEYS, CLOCK, table, segments(64)), x),
    )


def _fused(y: Tensor, x: Tensor) -> Tensor:
    return (y.float() * y.float() + x.float()).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_row_keys(dtype: torch.dtype) -> None:
    ids = torch.tensor([0, 5, 151_935, 2**31 - 1], dtype=dtype)
    places = torch.tensor([0, 131_072, 3, 7], dtype=torch.int64)
    out = torch.zeros(4, dtype=torch.int64)
    torch.ops.hetero_noise.row_keys_(out, ids, places)
    assert torch.equal(out, random.row_keys(ids, places))
    assert [int(k) & 0xFFFFFFFF for k in out] == ids.tolist()
    assert [int(k) >> 32 for k in out] == places.tolist()


def test_what_lies_on_another_device_is_refused() -> None:
    """Before the launch, in words: to a kernel an address of another device is an illegal one."""
    pytest.importorskip("triton")
    from hetero_plugin.kernels.cuda import fused as cuda_fused
    from hetero_plugin.kernels.cuda import keys as cuda_keys
    from hetero_plugin.kernels.cuda import perturb as cuda

    x, far = values(6, 200), torch.device("meta")
    table, cuts = torch.tensor([0.0, 0.1]), segments(200)
    good = KEYS, CLOCK, table
    for place in range(3):
        bad = [t.to(far) if i == place else t for i, t in enumerate(good)]
        with pytest.raises(ValueError, match="meta"):
            cuda.perturb(x, *bad, cuts, "relative_gaussian", True)
        with pytest.raises(ValueError, match="meta"):
            cuda_fused.gated_(x, values(6, 400), *bad, cuts, "relative_gaussian", True, "silu")
    weight = torch.ones(200, device=far)
    with pytest.raises(ValueError, match="meta"):
        cuda_fused.weighed_(
            x, x, weight, torch.zeros(200), 0.0, False, *good, cuts, "relative_gaussian", True
        )
    ids = torch.arange(4)
    with pytest.raises(ValueError, match="meta"):
        cuda_keys.row_keys_(torch.zeros(4, dtype=torch.int64), ids, ids.to(far))


@pytest.mark.gpu
def test_on_a_device() -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 2**40, (5000,), generator=generator)
    places = torch.randint(0, 2**20, (5000,), generator=generator)
    out = torch.zeros(5000, dtype=torch.int64, device="cuda")
    for start in (0, 1, 7):
        mine, theirs = ids[start:].cuda(), places[start:].cuda().to(torch.int32)
        torch.ops.hetero_noise.row_keys_(out[start:], mine, theirs)
        assert torch.equal(out[start:].cpu(), random.row_keys(ids[start:], places[start:]))
    for scale in (0.0, 0.1):
        table, x = torch.tensor([0.0, scale]), values(6, 200)
        y, right = x.cuda(), x.clone()
        where = [t.cuda() for t in (KEYS, CLOCK, table)]
        how = segments(200), "relative_uniform", True, True
        torch.ops.hetero_noise.perturb_unrounded_(y, torch.bfloat16, *where, *how)
        torch.ops.hetero_noise.perturb_unrounded_(right, torch.bfloat16, KEYS, CLOCK, table, *how)
        assert torch.equal(y.cpu(), right)
