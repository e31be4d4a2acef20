"""Native kernels of number formats: the reference to the bit, each compiled instruction set.

The inputs have what formats have trouble with: outliers, blocks of zeros, of tiny and of subnormal
numbers, NaN, infinities, -0, ties, widths that no block divides. About 25 seconds, most of it two
compilations for other instruction sets.
"""

from __future__ import annotations

import os
import pickle
import platform
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest
import torch

from hetero_plugin.errors import MODELS, error_model
from hetero_plugin.errors.base import ErrorModel
from hetero_plugin.errors.formats import numbers as native
from hetero_plugin.errors.formats.grid import E2M1, E2M3, E4M3, Grid
from hetero_plugin.errors.formats.micro import MODES, mx
from hetero_plugin.errors.formats.scaled import fp8, integer
from hetero_plugin.kernels import KERNEL, reference
from hetero_plugin.kernels.formats import declare
from hetero_plugin.operator.chain import Stage

REFERENCES = ("vllm", "compressed-tensors")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FORMATS = [name for name, model in MODELS.items() if model.number_format]
NVFP4 = [f"nvfp4|{scale}|{of}" for scale in ("max", "row", "37.5") for of in REFERENCES]
OTHER = [
    *(f"{name}|{mode}|ocp" for name in ("mxfp4", "mxfp8_e4m3") for mode in ("ceil", "rceil")),
    "mxfp4|even|ocp",
    "mxfp6_e3m2|even|compressed-tensors",
    "fp8_e4m3|tensor|max|own|compressed-tensors",
    "fp8_e5m2|128|max|0.001|compressed-tensors",
    "int8|tensor|max|symmetric",
    "int8|32|max|full",
    "int4|row|max|full",
]
NAMES = FORMATS + NVFP4 + OTHER
KEYS, CLOCK = torch.arange(64), torch.zeros(1, dtype=torch.int64)
needs_kernel = pytest.mark.skipif(KERNEL == "reference", reason="no C++ compiler here")


@cache
def values(dtype: torch.dtype, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Gaussians and Student's t(4) of many sizes, and what is odd."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=g)
    chi = torch.randn(4, rows, columns, generator=g).square().sum(0)
    x = torch.where(torch.arange(rows)[:, None] % 2 == 0, x, x / (chi / 4).sqrt())
    x = (
        x
        * torch.exp(4 * torch.randn(rows, (columns + 15) // 16, generator=g)).repeat_interleave(
            16, -1
        )[:, :columns]
    )
    odd = (
        lambda b: b * 0.0,
        lambda b: -b.abs() * 0.0,
        lambda b: b * 1e-39,  # subnormal in float32 and bfloat16
        lambda b: b * 1e-44,
        lambda b: b * 1e-7,  # subnormal in float16
        lambda b: b * 3e37,
        lambda b: (b * 8).round() / 8,  # ties
        lambda b: torch.where(torch.arange(b.shape[-1]) % 7 == 3, b * 1000, b),
        lambda b: torch.where(torch.arange(b.shape[-1]) % 5 == 0, torch.nan, b),
        lambda b: torch.where(torch.arange(b.shape[-1]) % 3 == 1, torch.inf, b),
        lambda b: torch.where(torch.arange(b.shape[-1]) % 2 == 1, -0.0, b),
    )
    for i in range(rows // 3):  # most rows stay ordinary: one NaN makes a row NaN
        for start in range(0, columns, 32):
            kind = odd[(i + start // 32) % (8 if i % 4 else 11)]
            x[3 * i, start : start + 32] = kind(x[3 * i, start : start + 32])
    if rows > 6:
        x[1] = 0.0
        x[2] *= 1e-44
        x[4] = (x[4] * 4).round() / 4
        x[5] = x[5].clamp(-3e37, 3e37) * 1e38
    return x.to(dtype)


def same(got: torch.Tensor, want: torch.Tensor) -> bool:
    """Every bit, but for those inside a NaN."""
    bits = torch.int16 if got.element_size() == 2 else torch.int32
    equal = (got.view(bits) == want.view(bits)) | (got.isnan() & want.isnan())
    return got.dtype == want.dtype and bool(equal.all())


def check(x: torch.Tensor, scales: torch.Tensor, segments: torch.Tensor, error: str) -> None:
    """Out of place and in place against the reference."""
    declare(error)
    how = KEYS, CLOCK, scales, segments, error, True
    want = reference.perturb(x, *how)
    got = torch.ops.hetero_noise.perturb(x, *how)
    where = f"{error} {x.dtype} {list(x.shape)} {scales.tolist()} {segments.tolist()}"
    assert same(got, want), where
    mine = x.clone()
    torch.ops.hetero_noise.perturb_(mine, *how)
    assert same(mine, want), where


def every_case(error: str) -> None:
    """All dtypes, blends, widths, numbers of rows and segments of one format."""
    for dtype in DTYPES:
        for scale in (1.0, 0.3, 0.0):
            for rows, columns in ((12, 1300), (31, 515), (1, 1), (2, 33), (0, 64)):
                one = torch.tensor([[columns, 5, 0, 1]])
                check(values(dtype, rows, columns), torch.tensor([0.0, scale]), one, error)
        several = torch.tensor([[130, 5, 64, 1], [77, 6, 0, 0], [64, 7, 128, 2], [129, 8, 0, 3]])
        check(values(dtype, 12, 400, 3), torch.tensor([0.0, 1.0, 0.3, 1.0]), several, error)


@needs_kernel
@pytest.mark.parametrize("error", NAMES)
def test_it_is_the_reference_to_the_bit(error: str) -> None:
    every_case(error)


@needs_kernel
@pytest.mark.parametrize("error", ["mxfp4", "int8", "nvfp4|row|vllm", "hif4"])
def test_rows_that_are_not_contiguous(error: str) -> None:
    one, scales = torch.tensor([[200, 5, 0, 0]]), torch.ones(1)
    wide = values(torch.bfloat16, 10, 1000)
    for x in (
        wide[:, 100:300],
        wide[:, ::5],
        wide[:, :20].T[:, :10].repeat(1, 20),
        wide[::2, :200],
    ):
        declare(error)
        want = reference.perturb(x, KEYS, CLOCK, scales, one, error, True)
        assert same(torch.ops.hetero_noise.perturb(x, KEYS, CLOCK, scales, one, error, True), want)
        mine = (
            wide.clone().as_strided(x.shape, x.stride(), x.storage_offset()) if x is not wide else x
        )
        if x.untyped_storage().data_ptr() != wide.untyped_storage().data_ptr():
            mine = x.clone()
        torch.ops.hetero_noise.perturb_(mine, KEYS, CLOCK, scales, one, error, True)
        assert same(mine, want)


OPTIONS = {
    **{
        f"mx {grid.name} {mode} {of}": (
            lambda x, grid=grid, mode=mode, of=of: mx(x, grid, mode, of),
            native.of_mx(grid, mode, of),
        )
        for grid in (E2M1, E2M3, E4M3)
        for mode in MODES
        for of in ("ocp", "compressed-tensors")
    },
    **{
        f"fp8 {shared} {floor}": (
            lambda x, shared=shared, floor=floor: fp8(x, E4M3, shared, floor),
            native.of_fp8(E4M3, shared, floor),
        )
        for shared in ("row", "tensor", 128, 16)
        for floor in (0.0, 1 / (448 * 512))
    },
    **{
        f"integer {bits} {shared}": (
            lambda x, bits=bits, shared=shared: integer(x, bits, shared, symmetric=True),
            native.of_integer(bits, shared, symmetric=True),
        )
        for bits in (2, 4, 8)
        for shared in ("row", "tensor", 32)
    },
}


@needs_kernel
@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_no_word_has_yet(name: str) -> None:
    """What the kernels take, whether or not a rule can ask for it."""
    apply, numbers = OPTIONS[name]
    assert numbers is not None
    operands = torch.tensor(numbers.values(), dtype=torch.float64)
    torch.ops.hetero_noise.declare_format(f"test {name}", operands)
    one = torch.tensor([[515, 5, 0, 0]])
    for dtype in DTYPES:
        x = values(dtype, 12, 515)
        for rows in (x, x[1:3]):
            got = torch.ops.hetero_noise.perturb(
                rows, KEYS, CLOCK, torch.ones(1), one, f"test {name}", True
            )
            assert same(got, apply(rows.float()).to(dtype)), (name, dtype)


def test_what_the_kernels_do_not_take_is_said_to_be_none() -> None:
    assert native.of_fp8(E4M3, "block") is None and native.of_integer(4, 48) is None
    assert native.of_integer(4, 1024) is None and native.of_integer(4, 512) is not None
    traits = vars(MODELS["mxfp4"])
    assert not ErrorModel(**{**traits, "numbers": None}).native


def test_every_format_is_native_and_its_numbers_are_those_of_its_grid() -> None:
    for name in NAMES:
        model = error_model(name)
        assert model.native and model.numbers is not None
        assert model.numbers.block in (0, 16) or model.numbers.block == model.block
        assert (model.numbers.span != native.Span.BLOCK) == model.whole_row


def test_wrong_numbers_are_refused() -> None:
    if KERNEL == "reference":
        pytest.skip("no C++ compiler here")
    good = MODELS["mxfp4"].numbers
    assert good is not None
    for wrong in (replace(good, block=20), replace(good, block=1024), replace(good, block=0)):
        values_of = torch.tensor(wrong.values(), dtype=torch.float64)
        with pytest.raises(RuntimeError, match="no format of rule 0"):
            torch.ops.hetero_noise.declare_format("wrong", values_of)
    with pytest.raises(RuntimeError, match="11 float64 numbers, got 2"):
        torch.ops.hetero_noise.declare_format("wrong", torch.ones(2, dtype=torch.float64))


@needs_kernel
@pytest.mark.parametrize("name", ["mxfp8_e4m3", "fp8_e4m3", "nvfp4|row|vllm"])
def test_subnormal_numbers_count_where_the_processor_was_told_otherwise(name: str) -> None:
    x, one = values(torch.float32, 24, 515), torch.tensor([[515, 5, 0, 0]])
    how = KEYS, CLOCK, torch.ones(1), one, name, True
    want = reference.perturb(x, *how)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such mode")
    try:
        declare(name)
        got = torch.ops.hetero_noise.perturb(x, *how)
    finally:
        torch.set_flush_denormal(False)
    assert same(got, want)


@needs_kernel
def test_a_row_is_its_own_in_any_batch_and_any_number_of_threads() -> None:
    x, one = values(torch.bfloat16, 60, 2000), torch.tensor([[2000, 5, 0, 0]])
    for error in [name for name in NAMES if "max" not in name and name != "nvfp4"]:
        declare(error)
        how = KEYS, CLOCK, torch.ones(1), one, error, True
        whole = torch.ops.hetero_noise.perturb(x, *how)
        assert same(torch.ops.hetero_noise.perturb(x[17:20], *how), whole[17:20])
        before = torch.get_num_threads()
        torch.set_num_threads(2 if before == 1 else 1)
        try:
            assert same(torch.ops.hetero_noise.perturb(x, *how), whole)
        finally:
            torch.set_num_threads(before)


@needs_kernel
def test_a_chain_that_came_from_another_process_knows_its_format() -> None:
    stage = Stage("nvfp4|55.5|vllm", True, False, torch.tensor([[64, 5, 0, 0]]))
    code = f"""
import pickle, torch
import hetero_plugin.operator
stage = pickle.loads({pickle.dumps(stage)!r})
x, keys = torch.ones(1, 64), torch.zeros(1, dtype=torch.int64)
y = torch.ops.hetero_noise.perturb(x, keys, keys, torch.ones(1), stage.segments, stage.error, True)
print(y[0, 0].item())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip(), done.stderr[-2000:]
    x = torch.ones(1, 64)
    how = KEYS, CLOCK, torch.ones(1), stage.segments, stage.error, True
    assert float(done.stdout) == reference.perturb(x, *how)[0, 0].item()


def _main() -> None:
    """In a process of its own, for another instruction set."""
    for error in NAMES:
        every_case(error)
    print("ran", KERNEL)


@needs_kernel
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 instruction sets"
)
@pytest.mark.parametrize("march", ["haswell", "x86-64"])
def test_every_instruction_set_has_the_same_bits(march: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.test_formats_native"],
        env={**os.environ, "HETERO_NOISE_MARCH": march},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ran cpp" in done.stdout


def test_the_grids_of_integers() -> None:
    """Steps of 1 from end to end, as a grid whose subnormals go up to 2**bits."""
    for bits in (2, 4, 8):
        high = 2.0 ** (bits - 1)
        x = torch.linspace(-high, high, 4001)
        assert torch.equal(Grid("int", bits, bits, high).nearest(x), torch.round(x))


if __name__ == "__main__":
    _main()
