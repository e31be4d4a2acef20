"""The operator together with the step beside it: the kernels against the steps one by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.kernels import fused, reference
from tests.kernels.test_cuda import DTYPES, compare, compiled

ROWS, COLUMNS = 5, 300
Keys = tuple[Any, ...]


def keys(slot: int, error: str = "relative_gaussian", device: str = "cpu", first: int = 60) -> Keys:
    """Row keys to rounding; slot 0 has scale 0."""
    site = random.site_key("model.layers.0.mlp.act_fn", "output")
    return (
        random.row_keys(torch.arange(ROWS) * 1_000_003, torch.arange(ROWS) * 7).to(device),
        torch.tensor([random.clock_key(3, 1)], device=device),
        torch.tensor([0.0, 0.1], device=device),
        torch.tensor([[COLUMNS, site, first, slot]]),
        error,
        True,
    )


def gated(clean: Tensor, *args: Any) -> Tensor:
    """The operator on a copy of ``clean``."""
    y = clean.clone()
    torch.ops.hetero_noise.gated_(y, *args)
    return y


def weighed(clean: Tensor, *args: Any) -> Tensor:
    y = clean.clone()
    torch.ops.hetero_noise.weighed_(y, *args)
    return y


def step_by_step(function: Any, clean: Tensor, *args: Any) -> Tensor:
    """What runs without a kernel, on a copy of ``clean``."""
    y = clean.clone()
    function(y, *args)
    return y


def gate(dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """What the layer gives without error, and gate and up side by side."""
    generator = torch.Generator().manual_seed(1)
    gate_up = (torch.randn(ROWS, 2 * COLUMNS, generator=generator) * 3).to(dtype)
    clean = (
        torch.nn.functional.silu(gate_up[:, :COLUMNS].float()) * gate_up[:, COLUMNS:].float()
    ).to(dtype)
    return clean.to(device), gate_up.to(device)


def norm(dtype: torch.dtype, device: str = "cpu", unit: torch.dtype | None = None) -> list[Tensor]:
    """clean, unit, weight and offset of a norm."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(ROWS, COLUMNS, generator=generator).to(dtype)
    weight = (torch.rand(COLUMNS, generator=generator) * 2).to(dtype)
    offset = torch.randn(COLUMNS, generator=generator) * 1e-2
    return [t.to(device) for t in (x * weight, x.to(unit or dtype), weight, offset)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", list(fused.ACTIVATIONS))
@pytest.mark.parametrize("error", ["relative_gaussian", "truncation"])
def test_a_gate_is_its_steps_bit_for_bit(dtype: torch.dtype, activation: str, error: str) -> None:
    clean, gate_up = gate(dtype)
    before = gate_up.clone()
    on, off = (gate_up, *keys(1, error), activation), (gate_up, *keys(0, error), activation)
    got = gated(clean, *on)
    assert torch.equal(got, step_by_step(fused.gated_, clean, *on))
    assert not torch.equal(got, clean)
    assert torch.equal(gated(clean, *off), clean)
    assert torch.equal(step_by_step(fused.gated_, clean, *off), clean)
    assert torch.equal(gate_up, before)


def test_a_gate_has_the_error_that_was_asked() -> None:
    """RMS of the relative error of 1,500 elements, asked 0.1: within 5 standard errors (9 %)."""
    _, gate_up = gate(torch.float32)
    exact = torch.nn.functional.silu(gate_up[:, :COLUMNS].double()) * gate_up[:, COLUMNS:].double()
    got = gated(exact.float(), gate_up, *keys(1), "silu")
    size = ((got.double() - exact) / exact).pow(2).mean().sqrt().item()
    assert abs(size - 0.1) < 0.1 * 5 / (2 * ROWS * COLUMNS) ** 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("slot", [0, 1, None])
def test_a_norm_is_its_steps_bit_for_bit(dtype: torch.dtype, wide: bool, slot: int | None) -> None:
    given = norm(dtype, unit=torch.float32 if wide else None)
    clean, unit, weight, offset = given
    after = list(keys(slot or 0))
    if slot is None:
        after[3] = torch.empty(0, 4, dtype=torch.int64)
        after[4] = ""
    for moved in (offset, torch.zeros_like(offset)):
        for in_dtype in (False, True):
            args = (clean, unit, weight, moved, 1.0 if wide else 0.0, in_dtype, *after)
            got = weighed(*args)
            assert torch.equal(got, step_by_step(fused.weighed_, *args))
            assert torch.equal(got, clean) == (slot != 1 and not moved.any())


def test_a_norm_of_each_head_has_the_columns_of_all_heads() -> None:
    clean, unit, _, _ = (t.bfloat16() for t in norm(torch.float32))
    heads = 3
    split = clean.view(ROWS, heads, -1), unit.view(ROWS, heads, -1)
    weight, offset = torch.ones(COLUMNS // heads).bfloat16(), torch.full((COLUMNS // heads,), 0.25)
    got = weighed(*split, weight, offset, 0.0, False, *keys(1))
    whole = (unit.float() * 1.25).bfloat16()
    expected = torch.ops.hetero_noise.perturb(whole, *keys(1))
    assert torch.equal(got.view(ROWS, COLUMNS), expected)


@pytest.mark.parametrize("in_dtype", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_norm_weighs_with_its_offset_as_asked(shift: float, in_dtype: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    unit, weight = (torch.randn(*size, generator=generator).bfloat16() for size in ((7, 96), (96,)))
    offset = torch.randn(96, generator=generator) * 5e-4
    clean = unit * 2
    none = *keys(0)[:3], torch.empty(0, 4, dtype=torch.int64), "", False

    def weigh(offset: Tensor, in_dtype: bool) -> Tensor:
        return weighed(clean, unit, weight, offset, shift, in_dtype, *none)

    got = weigh(offset, in_dtype)
    # A float64 reference of the same sum, rounded where the precision says so.
    added = weight + offset.bfloat16() if in_dtype else weight.double() + offset.double()
    expected = unit.double() * (added.double() + shift)
    error = (got.double() - expected).abs() / expected.abs().clamp_min(1e-30)
    assert error.max() <= 2**-8  # one rounding to bfloat16
    assert not torch.equal(got, weigh(offset, not in_dtype))
    assert torch.equal(weigh(torch.zeros(96), in_dtype), clean)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("error", ["relative_gaussian", "truncation"])
def test_in_place_is_the_same_bit_for_bit(dtype: torch.dtype, error: str) -> None:
    x = norm(dtype)[0]
    for slot in (0, 1):
        expected = torch.ops.hetero_noise.perturb(x, *keys(slot, error))
        for given in (x.clone(), x.t().contiguous().t()):  # and one that is not contiguous
            where = given.data_ptr()
            torch.ops.hetero_noise.perturb_(given, *keys(slot, error))
            assert torch.equal(given, expected) and given.data_ptr() == where
            assert torch.equal(given, x) == (slot == 0)


def test_compiled_in_place_leaves_what_others_read() -> None:
    """The compiler must copy where the tensor is read again, and may not run it before the GEMM."""
    x, weight, on = torch.randn(ROWS, COLUMNS), torch.randn(COLUMNS, COLUMNS), keys(1)

    def layer(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x @ weight
        kept = y * 2
        torch.ops.hetero_noise.perturb_(y, *on)
        return kept, y.relu()

    kept, y = torch.compile(layer, fullgraph=True)(x)
    expected = layer(x)
    assert torch.equal(kept, expected[0]) and torch.equal(y, expected[1])
    assert not torch.equal(y, (kept / 2).relu())


def test_a_phase_that_nobody_set_is_an_error() -> None:
    after = list(keys(1))
    after[2] = torch.tensor([0.0, float("nan")])
    with pytest.raises(RuntimeError, match="phase"):
        gated(*gate(torch.bfloat16), *after, "silu")
    with pytest.raises(RuntimeError, match="phase"):
        weighed(*norm(torch.bfloat16), 0.0, False, *after)


def test_too_few_row_keys_are_an_error() -> None:
    after = keys(1)
    with pytest.raises(RuntimeError, match="4 row keys"):
        gated(*gate(torch.bfloat16), after[0][:4], *after[1:], "silu")


def _cases(device: str, dtypes: Sequence[torch.dtype] = DTYPES) -> list[tuple[str, Tensor, Tensor]]:
    """What the CUDA kernels give beside the steps one by one, on a device or interpreted."""
    from hetero_plugin.kernels import unrounded
    from hetero_plugin.kernels.cuda import fused as cuda_fused
    from hetero_plugin.kernels.cuda import perturb as cuda

    found = []
    for dtype in dtypes:
        for slot in (0, 1):
            for error in ("relative_gaussian", "relative_uniform", "truncation"):
                name = f"{dtype} slot {slot} {error}"
                here, there = keys(slot, error), keys(slot, error, device)
                expected, given = gate(dtype)[0], gate(dtype, device)
                fused.gated_(expected, gate(dtype)[1], *here, "silu")
                cuda_fused.gated_(*given, *there, "silu")
                found.append((f"gate {name}", given[0].cpu(), expected))
                x, y = norm(dtype)[0], norm(dtype, device)[0]
                reference.perturb_(x, *here)
                cuda.perturb(y, *there, in_place=True)
                found.append((f"in place {name}", y.cpu(), x))
                for shift, in_dtype in ((0.0, False), (1.0, True)):
                    want, have = norm(dtype), norm(dtype, device)
                    fused.weighed_(*want, shift, in_dtype, *here)
                    cuda_fused.weighed_(*have, shift, in_dtype, *there)
                    found.append((f"norm {name} {in_dtype}", have[0].cpu(), want[0]))
                if dtype != torch.float32 and error != "relative_uniform":  # before the rounding
                    _, *rest = norm(dtype)
                    _, *on = norm(dtype, device)
                    whole = norm(torch.float32)[0]
                    x, y = whole.clone(), whole.to(device)
                    unrounded.weighed_unrounded_(x, dtype, *rest, 0.0, False, *here)
                    cuda_fused.weighed_(y, *on, 0.0, False, *there, dtype)
                    found.append((f"unrounded norm {name}", y.cpu().to(dtype), x.to(dtype)))
        none = torch.empty(0, 4, dtype=torch.int64)
        want = norm(dtype, unit=torch.float32)
        have = norm(dtype, device, unit=torch.float32)
        fused.weighed_(*want, 1.0, False, *keys(0)[:3], none, "", False)
        cuda_fused.weighed_(*have, 1.0, False, *keys(0, device=device)[:3], none, "", False)
        found.append((f"norm {dtype} wide, no error", have[0].cpu(), want[0]))
        # Three heads, so more rows than row keys, which nothing reads without error.
        want, have = ([t.view(-1, COLUMNS // 3) for t in norm(dtype, on)] for on in ("cpu", device))
        for made, where in ((want, "cpu"), (have, device)):
            function = fused.weighed_ if made is want else cuda_fused.weighed_
            given = made[0], made[1], made[2][0], made[3][0]
            function(*given, 0.0, False, *keys(0, device=where)[:3], none, "", False)
        found.append((f"norm {dtype} of each head, no error", have[0].cpu(), want[0]))
    return found


def _interpreted(dtype: str) -> None:
    """Prints the comparisons, a JSON list; runs under TRITON_INTERPRET=1."""
    cases = _cases("cpu", [getattr(torch, dtype)])
    print(json.dumps([[name, compare(got, want)] for name, got, want in cases]))


def _check(name: str, found: dict[str, float]) -> None:
    if "slot 0" in name and name.startswith("gate"):
        assert found["same"] == 1.0, (name, found)
    elif ("float32" in name and "norm" not in name) or "float32 slot 1 relative" in name:
        # exp, and the polynomials of the normals, differ in their last places.
        assert found["ulps"] <= 64, (name, found)
    else:
        assert found["same"] > 0.99 and found["ulps"] <= 2, (name, found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        ("bfloat16", 2 * 3 * 4 + 2 * 2 + 2),
        ("float16", 2 * 3 * 4 + 2 * 2 + 2),
        ("float32", 2 * 3 * 4 + 2),
    ],
)
def test_the_cuda_kernels_arithmetic_is_the_steps(dtype: str, number: int) -> None:
    pytest.importorskip("triton")
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.kernels.test_fused", dtype],
        env=os.environ | {"TRITON_INTERPRET": "1", "HETERO_NOISE_KERNEL": "reference"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr[-3000:]
    answers = json.loads(out.stdout.splitlines()[-1])
    assert len(answers) == number
    for name, found in answers:
        _check(name, found)


@pytest.mark.gpu
def test_on_a_device_they_are_the_steps() -> None:
    for name, got, expected in _cases("cuda"):
        _check(name, compare(got, expected))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    "name",
    [
        "gated, relative_gaussian, bf16",
        "weighed, relative_gaussian, bf16",
        "weighed, no error, bf16",
    ],
)
def test_they_compile_for_real_devices(capability: int, name: str) -> None:
    pytest.importorskip("triton")
    made, code = compiled(name, capability)
    ptx = made.asm["ptx"]
    assert f"sm_{capability}" in ptx
    assert ("lg2.approx" in ptx) == ("no error" not in name)
    assert code.spilled == 0 and code.calls == 0


if __name__ == "__main__":
    _interpreted(sys.argv[1])
