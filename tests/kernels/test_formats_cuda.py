"""The Triton kernel of number formats without a GPU: in Triton's interpreter, and compiled.

The interpreter has to be chosen before the kernel is defined, so it runs in a process of its own.
About 40 seconds.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from hetero_plugin.kernels import reference
from hetero_plugin.kernels.formats import numbers
from tests.kernels.test_cuda import compiled
from tests.kernels.test_formats_native import (
    CLOCK,
    DTYPES,
    KEYS,
    NAMES,
    OPTIONS,
    same,
    values,
)
from tests.kernels.test_variants import Launches

ONE = torch.tensor([[515, 5, 0, 1]])
SEVERAL = torch.tensor([[130, 5, 64, 1], [77, 6, 0, 0], [64, 7, 128, 2], [129, 8, 0, 3]])
SCALES = torch.tensor([0.0, 1.0, 0.3, 1.0])


def _interpreted() -> None:
    """Prints what differs, a JSON list, and how many were compared; under TRITON_INTERPRET=1."""
    from hetero_plugin.kernels.cuda import formats as cuda

    cuda.TILE, cuda_compared, wrong = 512, 0, []
    cuda.programs_of_rows = lambda rows, programs: min(rows, 3)  # so that one has several rows

    def compare(where: str, got: torch.Tensor, want: torch.Tensor) -> None:
        nonlocal cuda_compared
        cuda_compared += 1
        if not same(got, want):
            wrong.append(where)

    for error in NAMES:
        known = numbers(error)
        assert known is not None
        for dtype in DTYPES:
            for segments in (ONE, SEVERAL) if dtype == torch.bfloat16 else (SEVERAL,):
                x = values(dtype, 7 if known.block == 0 else 4, int(segments[:, 0].sum()), 3)
                how = KEYS, CLOCK, SCALES, segments
                want = reference.perturb(x, *how, error, True)
                where = f"{error} {dtype} {len(segments)}"
                compare(where, cuda.perturb(x, *how, known), want)
                mine = x.clone()
                cuda.perturb(mine, *how, known, in_place=True)
                compare(f"{where} in place", mine, want)
        x = values(torch.float32, 4, 256, 3)  # before a rounding, and where 16 lie together
        how = KEYS, CLOCK, SCALES, torch.tensor([[256, 5, 0, 2]])
        want = reference.perturb(x.bfloat16(), *how, error, True).float()
        cuda.perturb(mine := x.clone(), *how, known, in_place=True, rounds_to=torch.bfloat16)
        compare(f"{error} before a rounding", mine, want)
        unset = KEYS, CLOCK, torch.tensor([float("nan")]), torch.tensor([[256, 5, 0, 0]])
        compare(f"{error} unset", cuda.perturb(x, *unset, known), torch.full_like(x, torch.nan))
    for name, (apply, known) in OPTIONS.items():
        x = values(torch.bfloat16, 4, 515, 1)
        got = cuda.perturb(x, KEYS, CLOCK, torch.ones(2), ONE, known)
        compare(name, got, apply(x.float()).to(x.dtype))
    print(json.dumps([wrong, cuda_compared]))


@pytest.mark.slow
def test_its_arithmetic_is_the_references_to_the_bit() -> None:
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.kernels.test_formats_cuda"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr[-3000:]
    wrong, compared = json.loads(out.stdout.splitlines()[-1])
    assert not wrong
    assert compared == len(NAMES) * (4 * 2 + 2) + len(OPTIONS)


# Instructions an element on sm_90, at most: what was counted, and a tenth. Those of rows are too
# many: the compiler unrolls the loop that finds the largest number, and the count is of the text.
GOALS = {"mxfp4": 33, "hif4": 34, "fp8_e4m3": 89, "nvfp4|row|vllm": 84}


@pytest.mark.parametrize("name", list(GOALS))
def test_it_compiles_for_a_real_device(name: str) -> None:
    made, code = compiled(f"{name}, bf16", 90)
    ptx = made.asm["ptx"]
    assert "sm_90" in ptx and "fma.rn" not in ptx
    # Subnormal numbers count (but to a floor of what is at least 0.5), and divisions are rounded.
    assert set(re.findall(r"\S*\.ftz\S*", ptx)) <= {"cvt.rmi.ftz.f32.f32"}
    assert "div.full" not in ptx and "div.approx" not in ptx
    # Eight neighbours in one instruction, and no element by itself.
    assert "global.v4.b32" in ptx and "global.b16" not in ptx
    assert code.spilled == 0
    assert code.loop / 8 <= GOALS[name]


def test_calibrated_scales_and_other_rows_make_no_variants() -> None:
    from hetero_plugin.kernels.cuda import formats as cuda

    counted, before = Launches(cuda._formats), cuda._formats
    cuda._formats = counted
    try:
        for scale in ("0.5", "37.5", "1000.0"):
            for rows, columns, slot in ((1, 896, 1), (16, 4864, 2), (7, 896, 3)):
                x = torch.empty(rows, columns, dtype=torch.bfloat16)
                parts = torch.tensor([[columns, 5, 0, slot]])
                known = numbers(f"nvfp4|{scale}|vllm")
                assert known is not None
                cuda.perturb(x, KEYS, CLOCK, torch.ones(17), parts, known)
    finally:
        cuda._formats = before
    assert counted.launches == 9 and len(counted.keys) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("error", NAMES)
def test_on_a_device_it_is_the_reference_to_the_bit(error: str) -> None:
    for dtype in DTYPES:
        for segments in (ONE, SEVERAL):
            x = values(dtype, 12, int(segments[:, 0].sum()), 3)
            want = reference.perturb(x, KEYS, CLOCK, SCALES, segments, error, True)
            there = (t.cuda() for t in (x, KEYS, CLOCK, SCALES))
            got = torch.ops.hetero_noise.perturb(*there, segments, error, True).cpu()
            assert same(got, want), (error, dtype, len(segments))


if __name__ == "__main__":
    _interpreted()
