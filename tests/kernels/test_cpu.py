"""The CPU kernel for instruction sets that this machine would not choose by itself."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from hetero_plugin.kernels import KERNEL

CHECK = """
import torch
from hetero_plugin import random
from hetero_plugin.kernels import reference

rows, start, columns = 40, 37, 300
address = (
    torch.full((rows,), random.clock_key(3, 5)),
    torch.full((rows,), random.site_key("model.layers.0.mlp.up_proj", "output")),
    random.row_keys(torch.arange(rows) * 7919, torch.arange(rows)),
)
for kind in (0, 1, 3, 4):
    drawn = torch.ops.hetero_noise.stream(*address, start, columns, kind)
    assert torch.equal(drawn, reference.stream(*address, start, columns, kind)), kind
exact = random.normal(*address, start, columns, torch.float64)
gap = (torch.ops.hetero_noise.stream(*address, start, columns, 2).double() - exact).abs().max()
assert gap < 1e-5, gap  # float32; the bound is that of test_normals_against_float64 for small n

x = torch.randn(rows, columns).to(torch.bfloat16)
x[0, :4] = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0])
segments = torch.tensor([[columns, 12345, start, 1]])
scales = torch.tensor([0.0, 0.1])
call = (x, address[2], address[0][:1], scales, segments, "relative_gaussian", True)
ours, wanted = torch.ops.hetero_noise.perturb(*call), reference.perturb(*call)
assert torch.equal(ours.isnan(), wanted.isnan()) and torch.equal(ours.isinf(), wanted.isinf())
same = (ours == wanted) | ours.isnan()
assert same.float().mean() > 0.999, same.float().mean()
call = (*call[:5], "relative_uniform", True)
for value in (x, x.float(), x.half()):
    ours = torch.ops.hetero_noise.perturb(value, *call[1:])
    wanted = reference.perturb(value, *call[1:])
    assert torch.equal(ours.nan_to_num(), wanted.nan_to_num()), value.dtype
from hetero_plugin.kernels import KERNEL
print("ran", KERNEL)
"""


@pytest.mark.skipif(KERNEL == "reference", reason="there is no C++ compiler on this machine")
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 instruction sets"
)
@pytest.mark.parametrize("march", ["native", "haswell", "x86-64"])
def test_every_instruction_set_draws_the_same(march: str) -> None:
    """Bit for bit the words; normals within float32; the widest path, AVX2 and plain SSE2."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        env={**os.environ, "HETERO_NOISE_MARCH": march},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ran cpp" in done.stdout
