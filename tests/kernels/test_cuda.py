"""The CUDA kernel without a GPU: its arithmetic in Triton's interpreter, its compilation for real.

The interpreter has to be chosen before the kernel is defined, so it runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from hetero_plugin import random
from hetero_plugin.kernels import reference

MODELS = (
    "relative_gaussian",
    "absolute_gaussian",
    "systematic_bias",
    "systematic_bias_relative",
    "truncation",
    "relative_uniform",
)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# A fused layer's three segments, the first of them a shard that starts inside a group; one is off.
# Then seven, which take two launches.
SEGMENTS = (
    [(100, "a", 60, 1), (150, "b", 0, 2), (50, "c", 128, 0)],
    [(20 + i, f"s{i}", 128 * i + i, 1 + i % 2) for i in range(7)],
)


def perturb(
    x: torch.Tensor,
    keys: torch.Tensor,
    clock: torch.Tensor,
    scales: torch.Tensor,
    segments: torch.Tensor,
    error: str = "relative_gaussian",
    stochastic: bool = True,
) -> torch.Tensor:
    """The operator itself: this file needs PyTorch and Triton, and no pydantic."""
    return torch.ops.hetero_noise.perturb(x, keys, clock, scales, segments, error, stochastic)


def case(dtype: torch.dtype, layout: int, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    parts = SEGMENTS[layout]
    rows, columns = 3, sum(part[0] for part in parts)
    generator = torch.Generator().manual_seed(layout)
    x = torch.randn(rows, columns, generator=generator).to(dtype)
    # Zeros, infinities, NaN, the smallest normal and subnormal numbers.
    odd = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 6e-5, -3e-6, 1e-38]
    x[0, : len(odd)] = torch.tensor(odd).to(dtype)
    keys = random.row_keys(torch.arange(rows) * 1_000_003, torch.arange(rows) * 7)
    clock = torch.tensor([random.clock_key(3, 1)])
    scales = torch.tensor([0.0, 0.05, 0.2])
    segments = torch.tensor([[n, random.site_key(s, "output"), o, k] for n, s, o, k in parts])
    return *(t.to(device) for t in (x, keys, clock, scales)), segments


def compiled(name: str, capability: int) -> tuple[Any, Any]:
    """A variant of benchmarks/sass.py, compiled, and what was counted in it."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    if folder not in sys.path:
        sys.path.append(folder)
    pytest.importorskip("typer", reason="benchmarks/sass.py is a command line of typer's")
    import sass

    variant = next(one for one in sass.variants() if one.name == name)
    made = sass.compiled(variant, capability)
    return made, sass.count(made.asm["cubin"])


def compare(got: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    """Share of equal elements, and the largest difference in units of the value's last place."""
    same = (got == expected) | (got.isnan() & expected.isnan())
    eps = torch.finfo(got.dtype).eps
    scale = expected.double().abs().clamp_min(torch.finfo(got.dtype).tiny)
    ulps = ((got.double() - expected.double()).abs() / scale / eps)[~same].nan_to_num(1e9)
    return {"same": same.double().mean().item(), "ulps": ulps.max().item() if len(ulps) else 0.0}


def _interpreted(part: str) -> None:
    """Prints the comparisons, a JSON list; runs under TRITON_INTERPRET=1.

    Args:
        part: "few": stochastic rounding and one launch; "others": what is not among those.
    """
    from hetero_plugin.kernels.cuda import perturb as cuda

    cuda.PROGRAMS = 3  # so that a program has several rows
    few = part == "few"
    answers: list[Any] = []
    for dtype in DTYPES:
        for model in MODELS:
            for stochastic in (True, False):
                for layout in (0, 1):
                    if (stochastic and layout == 0) != few:
                        continue
                    args = (*case(dtype, layout), model, stochastic)
                    found = compare(cuda.perturb(*args), reference.perturb(*args))
                    answers.append([str(dtype), model, stochastic, layout, found])
        if few:
            continue
        off = (*case(dtype, 0), "relative_gaussian", True)
        off[3].zero_()
        same = [compare(cuda.perturb(*off, in_place=way), off[0])["same"] for way in (False, True)]
        answers.append(["off", str(dtype), same == [1.0, 1.0], 0, {}])
    for dtype in (torch.bfloat16, torch.float16):  # before the rounding
        for model in MODELS:
            for layout in () if few else (0, 1):
                x, *rest = case(torch.float32, layout)
                y, right = x.clone(), reference.perturb(x.to(dtype), *rest, model, True)
                cuda.perturb(y, *rest, model, True, in_place=True, rounds_to=dtype)
                live = torch.cat(
                    [(rest[2][int(row[3])] != 0).expand(int(row[0])) for row in rest[3]]
                )
                right = torch.where(live, right.float(), x)
                answers.append([f"before {dtype}", model, True, layout, compare(y, right)])
    unset = case(torch.bfloat16, 0)
    unset[3][1] = float("nan")  # a phase that nobody set
    for model in () if few else MODELS:
        y = cuda.perturb(*unset, model, True)
        answers.append(["unset", model, bool(y[:, :100].isnan().all()), 0, {}])
    print(json.dumps(answers))


@pytest.mark.parametrize("part", ["few", pytest.param("others", marks=pytest.mark.slow)])
def test_its_arithmetic_is_the_references(part: str) -> None:
    """bfloat16 and float16: bit for bit on these inputs. float32: the normals differ in their last
    places (log, sine and cosine are other polynomials), so the sum does by a few of its own."""
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.kernels.test_cuda", part],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr[-3000:]
    answers = json.loads(out.stdout.splitlines()[-1])
    few = len(DTYPES) * len(MODELS)
    others = 3 * few + len(DTYPES) + (2 * 2 + 1) * len(MODELS)
    assert len(answers) == (few if part == "few" else others)
    for dtype, model, stochastic, layout, found in answers:
        where = f"{model} {dtype} stochastic={stochastic} layout {layout}: {found}"
        if dtype == "unset":
            assert stochastic, f"{model}: a scale that is not set must not pass for clean"
        elif dtype == "off":
            assert stochastic, f"{model}: scale 0 changed something"
        elif dtype == "torch.float32" and "gaussian" in model:
            assert found["same"] > 0.8 and found["ulps"] <= 64, where
        else:
            assert found["same"] == 1.0, where


def test_truncations_quotient_is_a_divisions() -> None:
    """The kernel's arithmetic for x / s, each fused multiply-add rounded once (exact in float64 but
    for a second rounding that matters once in 2^29): equal to the division on 4·10^6 pairs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2000, generator=generator) * torch.exp(
        8 * torch.randn(2000, 1, generator=generator)
    )
    scale = torch.exp(6 * torch.randn(2000, 1, generator=generator))
    inverse = 1.0 / scale
    q = x * inverse
    rest = (x.double() - q.double() * scale.double()).float()
    got = (q.double() + rest.double() * inverse.double()).float()
    assert torch.equal(got, x / scale)
    assert not torch.equal(q, x / scale)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    "name", ["relative_gaussian, bf16", "relative_uniform, fp32", "truncation, bf16"]
)
def test_it_compiles_for_real_devices(capability: int, name: str) -> None:
    made, code = compiled(name, capability)
    ptx = made.asm["ptx"]
    assert f"sm_{capability}" in ptx
    draws = not name.startswith("truncation")
    assert ("mul.hi.u32" in ptx or "mul.wide.u32" in ptx or "mul.lo.s64" in ptx) == draws
    # Fused multiply-adds are those that were asked for: a contracted sum would break TwoSum.
    assert ("fma.rn" in ptx) == (name != "relative_uniform, fp32")
    assert code.spilled == 0


@pytest.mark.parametrize("name", ["relative_gaussian, bf16", "truncation, bf16"])
def test_at_scale_0_a_program_has_read_one_float(name: str) -> None:
    """In place: until the branch that ends it, one load of four bytes."""
    made, _ = compiled(name, 90)
    ptx = made.asm["ptx"]
    before = ptx[: re.search(r"@%p\d+ bra", ptx).start()]  # type: ignore[union-attr]
    assert re.findall(r"ld\.global\S*", before) == ["ld.global.b32"]
    assert "st.global" not in before


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", [0, 1])
def test_on_a_device_it_is_the_reference(dtype: torch.dtype, model: str, layout: int) -> None:
    for stochastic in (True, False):
        x, keys, clock, scales, segments = case(dtype, layout, "cuda")
        got = perturb(x, keys, clock, scales, segments, model, stochastic).cpu()
        cpu = case(dtype, layout)
        want = reference.perturb(*cpu, model, stochastic)
        found = compare(got, want)
        if dtype is torch.float32 and "gaussian" in model:
            # A normal is within 4e-6; two roundings. (In units of a sum near 0 that is anything.)
            size = cpu[0].double().abs().clamp_min(1.0)
            apart = (got.double() - want.double()).abs()[want.isfinite()]
            assert (apart <= ((4e-6 * 0.2 + 3 * 2.0**-24) * size)[want.isfinite()]).all()
            assert found["same"] > 0.7, found
        else:
            assert found["same"] > 0.999 and found["ulps"] <= 1, found


@pytest.mark.gpu
def test_a_captured_graph_follows_the_scale_and_the_clock() -> None:
    x, keys, clock, scales, segments = case(torch.bfloat16, 0, "cuda")
    args = x, keys, clock, scales, segments, "relative_gaussian", True
    perturb(*args)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = perturb(*args)
    seen = []
    for scale, step in ((0.05, 1), (0.05, 2), (0.0, 2), (0.05, 1)):
        scales.copy_(torch.tensor([0.0, scale, scale]))
        clock.fill_(random.clock_key(3, step))
        graph.replay()
        seen.append(y.clone())
    finite = x.isfinite()
    assert torch.equal(seen[0][finite], seen[3][finite])
    assert not torch.equal(seen[0][finite], seen[1][finite])
    assert torch.equal(seen[2][finite], x[finite])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_device_uniform_errors_are_equal_bit_for_bit(dtype: torch.dtype) -> None:
    for layout in (0, 1):
        for stochastic in (True, False):
            got = perturb(*case(dtype, layout, "cuda"), "relative_uniform", stochastic).cpu()
            want = reference.perturb(*case(dtype, layout), "relative_uniform", stochastic)
            assert compare(got, want)["same"] == 1.0


@pytest.mark.gpu
@pytest.mark.parametrize("fast,most,middle", [(False, 3e-4, 2e-6), (True, 8e-4, 3e-6)])
def test_on_a_device_normals_are_those_of_float64(fast: bool, most: float, middle: float) -> None:
    """The error of 4·10^7 normals: largest, and root of the mean square; float32 on zeros gives
    the normals themselves. The largest is where the radius is small (kernels/cuda/draw.py)."""
    from hetero_plugin.kernels.cuda import perturb as cuda

    worst, squares, count = 0.0, 0.0, 0
    columns, rows = 4096, 1000
    for batch in range(10):
        keys = torch.arange(rows) + batch * rows
        clock, site = torch.tensor([random.clock_key(5, 0)]), random.site_key("a", "output")
        exact = random.normal(
            clock.cuda(), torch.tensor([site]).cuda(), keys.cuda(), 0, columns, torch.float64
        )
        x = torch.zeros(rows, columns, device="cuda")
        parts = torch.tensor([[columns, site, 0, 0]])
        z = cuda.perturb(
            x, keys.cuda(), clock.cuda(), torch.ones(1, device="cuda"), parts,
            "absolute_gaussian", False, fast=fast,
        )  # fmt: skip
        gap = (z.double() - exact).abs()
        worst = max(worst, gap.max().item())
        squares += gap.square().sum().item()
        count += gap.numel()
    print(
        f"fast={fast}: largest {worst:.2e}, root of the mean square {(squares / count) ** 0.5:.2e}"
    )
    assert worst < most and (squares / count) ** 0.5 < middle


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", MODELS)
def test_on_a_device_scale_0_copies_every_bit_or_touches_nothing(
    dtype: torch.dtype, model: str
) -> None:
    x, keys, clock, scales, segments = case(dtype, 0, "cuda")
    scales.zero_()
    bits = torch.int16 if x.element_size() == 2 else torch.int32
    copy = perturb(x, keys, clock, scales, segments, model, True)
    assert copy.data_ptr() != x.data_ptr() and torch.equal(copy.view(bits), x.view(bits))
    mine = x.clone()
    torch.ops.hetero_noise.perturb_(mine, keys, clock, scales, segments, model, True)
    assert torch.equal(mine.view(bits), x.view(bits))


@pytest.mark.gpu
def test_on_a_device_scale_0_in_place_is_far_from_a_pass_over_the_tensor() -> None:
    x = torch.randn(16_384, 17_920, device="cuda", dtype=torch.bfloat16)
    keys = torch.arange(16_384, device="cuda")
    clock, scales = torch.zeros(1, dtype=torch.int64, device="cuda"), torch.zeros(1, device="cuda")
    parts, y = torch.tensor([[17_920, 5, 0, 0]]), torch.empty_like(x)

    def seconds(work: Callable[[], object]) -> float:
        work()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(20):
            work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    args = keys, clock, scales, parts, "relative_gaussian", True
    off = seconds(lambda: torch.ops.hetero_noise.perturb_(x, *args))
    assert off < 0.5 * seconds(lambda: y.copy_(x))


@pytest.mark.gpu
@pytest.mark.parametrize("start", [1, 2, 7])
def test_on_a_device_row_keys_may_begin_anywhere(start: int) -> None:
    x, _, clock, scales, segments = case(torch.bfloat16, 0, "cuda")
    keys = random.row_keys(torch.arange(20) * 37, torch.arange(20)).cuda()
    got = perturb(x, keys[start:], clock, scales, segments)
    want = perturb(x, keys[start:].clone(), clock, scales, segments)
    bits = got.view(torch.int16), want.view(torch.int16)
    assert torch.equal(*bits)
    assert not torch.equal(bits[0], perturb(x, keys, clock, scales, segments).view(torch.int16))


@pytest.mark.gpu
@pytest.mark.parametrize("rows,columns", [(70_001, 130), (20_000, 1000), (3, 152_064), (1, 1)])
def test_on_a_device_any_number_of_rows_and_columns(rows: int, columns: int) -> None:
    """More rows than programs, more columns than a program has; every row is its own."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).bfloat16()
    keys = random.row_keys(torch.arange(rows) % 151_936, torch.arange(rows))
    clock, scales = torch.tensor([random.clock_key(3, 1)]), torch.tensor([0.05])
    parts = torch.tensor([[columns, random.site_key("a", "output"), 0, 0]])
    for model in ("relative_gaussian", "relative_uniform"):
        here = perturb(x, keys, clock, scales, parts, model)
        there = perturb(x.cuda(), keys.cuda(), clock.cuda(), scales.cuda(), parts, model).cpu()
        found = compare(there, here)
        assert found["same"] > 0.9999 if model == "relative_gaussian" else found["same"] == 1.0
        assert found["ulps"] <= 1.01, found


@pytest.mark.gpu
def test_on_a_device_more_than_2_to_31_elements() -> None:
    rows, columns = 131_073, 16_640  # 2.18·10^9
    need = 3 * rows * columns * 2
    if torch.cuda.mem_get_info()[0] < need:
        pytest.skip(f"needs {need / 2**30:.0f} GiB of free GPU memory")
    x = torch.full((rows, columns), 1.5, dtype=torch.bfloat16, device="cuda")
    keys = torch.arange(rows, device="cuda")
    clock = torch.tensor([random.clock_key(3, 1)], device="cuda")
    scales, parts = torch.tensor([0.05], device="cuda"), torch.tensor([[columns, 7, 0, 0]])
    torch.ops.hetero_noise.perturb_(x, keys, clock, scales, parts, "relative_gaussian", True)
    for first in (0, rows // 2, rows - 5):
        part = torch.full((5, columns), 1.5, dtype=torch.bfloat16, device="cuda")
        want = perturb(part, keys[first : first + 5].clone(), clock, scales, parts)
        assert torch.equal(x[first : first + 5], want)


@pytest.mark.gpu
def test_a_captured_graph_in_place_follows_the_scale() -> None:
    x, keys, clock, scales, segments = case(torch.bfloat16, 0, "cuda")
    x = x.nan_to_num(0.5, 0.5, 0.5)
    y = x.clone()
    args = y, keys, clock, scales, segments, "relative_uniform", True
    torch.ops.hetero_noise.perturb_(*args)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.ops.hetero_noise.perturb_(*args)
    for scale in (0.05, 0.0, 0.2, 0.0):
        scales.copy_(torch.tensor([0.0, scale, scale]))
        y.copy_(x)
        graph.replay()
        want = perturb(x, keys, clock, scales, segments, "relative_uniform", True)
        assert torch.equal(y, want) and torch.equal(y, x) == (scale == 0.0)


@pytest.mark.gpu
def test_on_a_device_a_phase_that_nobody_set_is_not_a_number() -> None:
    for dtype in DTYPES:
        x, keys, clock, scales, segments = case(dtype, 0, "cuda")
        scales[1] = float("nan")
        for model in MODELS:
            y = perturb(x, keys, clock, scales, segments, model, True)
            assert y[:, :100].isnan().all(), (dtype, model)


if __name__ == "__main__":
    _interpreted(sys.argv[1])
