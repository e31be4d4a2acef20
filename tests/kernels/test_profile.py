"""What is drawn from a profile: the reference against the table, kernels against the reference.

About 80 s on two cores; the interpreter of Triton and other instruction sets are slow ones.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.attestation.profiles import ProfileLook
from hetero_plugin.config import ConfigError
from hetero_plugin.errors.profile import (
    EDGES,
    Bin,
    Profile,
    Table,
    hold,
    ordered,
    replay_of,
    replay_word,
)
from hetero_plugin.errors.profile.bins import bins_by_limits
from hetero_plugin.errors.profile.replay import REACH
from hetero_plugin.kernels import KERNEL, reference
from hetero_plugin.kernels.formats import declare
from tests.errors.profiles import mild, wild, written

needs_kernel = pytest.mark.skipif(KERNEL == "reference", reason="no C++ compiler")
FLOATS = (torch.bfloat16, torch.float16, torch.float32)
INTEGERS = {2: torch.int16, 4: torch.int32}
SEGMENTS = [[600, 5, 3, 1], [1, 77, 0, 0], [396, 6, 1000, 1]]
WAYS = [(0.0, False), (0.0, True), (0.3, True), (1.0, False)]


def word_of(fresh: float, ranges: bool, seed: int = 7) -> str:
    """A wild profile's word, known to this process and its kernels."""
    return known(wild(fresh, ranges), seed)


def known(profile: Profile, seed: int = 7) -> str:
    """A profile's word, known to this process and its kernels."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        hold(written(profile, Path(folder)), profile.digest)
    word = replay_word(profile.digest, "linear", 896, seed)
    declare(word)
    return word


def values(dtype: torch.dtype, rows: int, columns: int = 997) -> Tensor:
    """Rows of all sizes, with whatever a kernel may trip over."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    x *= torch.logspace(-6, 4, rows)[:, None]
    x[0] = 0.0
    x[1, ::3] = -0.0
    x[2, 5] = float("inf")
    x[3, 7] = float("nan")
    x[4] = torch.finfo(dtype).max * torch.sign(x[4])
    x[5] *= 1e-30
    x[6, 8] = 3e4
    x[7] *= 1e-40
    x = x.to(dtype)
    x[8] = around_powers(dtype, columns)
    return x


def around_powers(dtype: torch.dtype, columns: int) -> Tensor:
    """A row about 1 whose elements lie at powers of two and next to them, down to what is subnormal
    and 0, with NaNs and infinities among them: [columns]."""
    bits_ = 7 if dtype == torch.bfloat16 else 10 if dtype == torch.float16 else 23
    kind = INTEGERS[torch.finfo(dtype).bits // 8]
    exponent = torch.arange(columns) % 24 - 18  # of 2^-18 … 2^5, subnormal in float16 below 2^-14
    power = torch.exp2(exponent.float()).to(dtype)
    beside = torch.arange(columns) % 5 - 2  # ulps
    row = (power.view(kind) + beside.to(kind)).view(dtype)
    least = torch.tensor([0, 1, 3, 1 << bits_, (1 << bits_) - 1, (1 << bits_) + 1], dtype=kind)
    row[: 4 * len(least)] = least.repeat(4).view(dtype)
    row[1::2] = -row[1::2]
    row[30:34] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0]).to(dtype)
    return row


def bits(x: Tensor) -> Tensor:
    return x.view(INTEGERS[x.element_size()])


def call(op: object, x: Tensor, word: str, scale: float, clock: int = 5) -> Tensor:
    keys = torch.arange(x.shape[0]) * 7919
    how = keys, torch.tensor([clock]), torch.tensor([0.0, scale]), torch.tensor(SEGMENTS)
    result: Tensor = op(x, *how, word, True)  # type: ignore[operator]
    return result


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_row_around_powers_has_what_it_is_for(dtype: torch.dtype) -> None:
    row = values(dtype, 9)[8]
    fine = row[row.isfinite()].abs()
    normal = torch.finfo(dtype).smallest_normal
    mantissa = torch.frexp(fine[fine >= normal].float()).mantissa
    assert (mantissa == 0.5).sum() > 50 and (mantissa > 0.99).sum() > 50
    assert ((fine > 0) & (fine < normal)).sum() >= 8 and (fine == 0).sum() >= 5
    assert row.isnan().any() and row.isinf().any()
    limits = torch.tensor([2.0**edge for edge in EDGES])
    assert len(bins_by_limits(row[None], limits)[0].unique()) > 10


@needs_kernel
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_million_elements_are_the_references(dtype: torch.dtype) -> None:
    x = values(dtype, 1031)
    word = word_of(0.3, True)
    want = call(reference.perturb, x, word, 1.0)
    got = call(torch.ops.hetero_noise.perturb, x, word, 1.0)
    assert x.numel() > 10**6 and torch.equal(bits(got), bits(want))
    assert (bits(got) != bits(x))[:, :600].double().mean() > 0.7
    assert torch.equal(bits(got)[:, 600], bits(x)[:, 600])  # the segment without a rule


def every_case() -> int:
    cases = 0
    for fresh, ranges in WAYS:
        word = word_of(fresh, ranges)
        for dtype in FLOATS:
            x = values(dtype, 61)
            for scale in (0.0, 1e-4, 0.4, 1.0):
                want = call(reference.perturb, x, word, scale)
                got = call(torch.ops.hetero_noise.perturb, x, word, scale)
                assert torch.equal(bits(got), bits(want)), (fresh, ranges, dtype, scale)
                mine = x.clone()
                call(torch.ops.hetero_noise.perturb_, mine, word, scale)
                assert torch.equal(bits(mine), bits(want)), (fresh, ranges, dtype, scale)
                cases += 1
    return cases


@needs_kernel
def test_every_way_is_the_references() -> None:
    assert every_case() == 48


def shaped(values: tuple[int, ...], share: float, edges: tuple[float, ...] = EDGES) -> Profile:
    """A profile in which ``share`` of each bin changes, by each value but 0 alike."""
    kept = values.index(0)
    part = share / max(len(values) - 1, 1)
    upto = [part * (i + 1) + (1 - share - part) * (i >= kept) for i in range(len(values) - 1)]
    one = Bin(values=values, cumulative=(*upto, 1.0), n=10)
    return Profile(
        name="shaped",
        tables=tuple(
            Table(
                kind="linear",
                dtype=dtype,
                ks=(896,),
                edges=edges,
                bins=(one,) * (len(edges) + 1),
                n=1,
            )
            for dtype in ("bfloat16", "float16", "float32")
        ),
    )


WIDE = tuple(-12.0 + i for i in range(26))
SHAPES = {
    "nothing changes": ((0,), 0.0, EDGES),
    "all change": ((-1, 0, 1), 1 - 2.0**-30, EDGES),
    "rarely": ((-1, 0, 1), 0.001, EDGES),
    "by up to two": ((-2, -1, 0, 1, 2), 0.3, EDGES),
    "by up to six": (tuple(range(-6, 7)), 0.5, EDGES),
    "further than is counted": (tuple(range(-20, 21)), 0.4, EDGES),
    "far only": ((-300, 0, 300), 0.4, EDGES),
    "one way": ((0, 1, 5), 0.2, EDGES),
    "one bin": ((-1, 0, 1), 0.2, ()),
    "one edge": ((-1, 0, 2), 0.2, (-1.0,)),
    "edges that sixteen exponents don't span": ((-1, 0, 2), 0.2, WIDE),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_counted_for_all_elements(shape: str) -> None:
    """The reach: nothing lies beyond where that is cheap."""
    table = replay_of(known(shaped(*SHAPES[shape]))).table(torch.bfloat16)
    expected = {
        "nothing changes": 0,
        "all change": 1,
        "by up to two": 2,
        "by up to six": 6,
        "far only": 0,
    }
    if shape in expected:
        assert table.reach == expected[shape]
    assert 0 <= table.reach <= REACH


@needs_kernel
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_table_is_the_references(shape: str) -> None:
    word = known(shaped(*SHAPES[shape]))
    for dtype in FLOATS:
        for columns in (1, 15, 128, 130, 997):
            x = values(dtype, 40, max(columns, 64))[:, :columns].contiguous()
            # float16 has no exponents below those that a row of this size needs.
            x[20:30] = (torch.randn(10, columns) * 0.01).to(dtype)
            how = torch.arange(40) * 7919, torch.tensor([5]), torch.tensor([1.0])
            rest = torch.tensor([[columns, 5, 3, 0]]), word, True
            want = reference.perturb(x, *how, *rest)
            got = torch.ops.hetero_noise.perturb(x, *how, *rest)
            assert torch.equal(bits(got), bits(want)), (shape, dtype, columns)
            torch.ops.hetero_noise.perturb_(x, *how, *rest)
            assert torch.equal(bits(x), bits(want)), (shape, dtype, columns)


@needs_kernel
@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="names of x86 instruction sets"
)
@pytest.mark.parametrize("march", ["haswell", "x86-64"])
def test_every_instruction_set_has_the_same_bits(march: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.test_profile"],
        env={**os.environ, "HETERO_NOISE_MARCH": march},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ran cpp" in done.stdout


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_what_is_drawn_is_the_tables(dtype: torch.dtype, scale: float, tmp_path: object) -> None:
    """Each bin's values by their shares, within five standard deviations of each count."""
    word = word_of(0.3, False)
    table = replay_of(word).table(dtype)
    x = torch.randn(300, 600, generator=torch.Generator().manual_seed(3)).to(dtype)
    how = torch.arange(300) * 31, torch.tensor([9]), torch.tensor([scale])
    y = reference.perturb(x, *how, torch.tensor([[600, 4, 0, 0]]), word, True)
    a = ordered(x)
    difference = (ordered(y) - a) * torch.where(a < 0, -1, 1)
    bins = bins_by_limits(x, torch.tensor(table.limits))
    for index in range(len(table.starts) - 1):
        found = difference[bins == index]
        if len(found) < 500 or index < 3:
            continue
        shares: dict[int, float] = {0: 1.0 - scale}
        before = 0
        for entry in range(table.starts[index], table.starts[index + 1]):
            value, upto = table.firsts[entry], table.thresholds[entry]
            shares[value] = shares.get(value, 0.0) + scale * (upto - before) * 2.0**-31
            before = upto
        assert set(found.unique().tolist()) <= set(shares)
        for value, share in shares.items():
            count, n = int((found == value).sum()), len(found)
            assert abs(count - n * share) <= 5 * (n * share * (1 - share)) ** 0.5 + 1e-9


def test_what_is_fixed_knows_no_step_and_what_is_fresh_does() -> None:
    x = torch.randn(50, 997, generator=torch.Generator().manual_seed(4)).bfloat16()
    clocks = [random.clock_key(7, step) for step in (0, 1)]
    for fresh, apart in ((0.0, 0.0), (0.3, 0.3), (1.0, 1.0)):
        word = word_of(fresh, False)
        first, second = (call(reference.perturb, x, word, 1.0, clock) for clock in clocks)
        moved = (bits(first) != bits(second))[:, :600].double().mean()
        if fresh == 0:
            assert moved == 0
        else:  # two draws of seven values are alike now and then
            assert 0.5 * apart < moved < apart
    # Of another seed nothing is the same, and `resample: never` is the fixed part alone.
    other = call(reference.perturb, x, word_of(0.0, False, seed=8), 1.0, clocks[0])
    mine = call(reference.perturb, x, word_of(0.0, False), 1.0, clocks[0])
    assert (bits(other) != bits(mine))[:, :600].double().mean() > 0.5
    never = random.clock_key(7, None)
    alike = call(reference.perturb, x, word_of(1.0, False), 1.0, never)
    assert alike.shape == x.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_before_a_rounding_it_is_that_of_the_rounded(dtype: torch.dtype) -> None:
    x = torch.randn(20, 997, generator=torch.Generator().manual_seed(5))
    word = word_of(0.0, True)
    want = call(torch.ops.hetero_noise.perturb, x.to(dtype), word, 1.0)
    keys = torch.arange(20) * 7919
    how = keys, torch.tensor([5]), torch.tensor([0.0, 1.0]), torch.tensor([[997, 5, 3, 1]])
    want = torch.ops.hetero_noise.perturb(x.to(dtype), *how, word, True)
    mine = x.clone()
    torch.ops.hetero_noise.perturb_unrounded_(mine, dtype, *how, word, True, KERNEL != "reference")
    assert torch.equal(mine, want.float())
    off = how[0], how[1], torch.zeros(2), how[3]
    clean = x.clone()
    torch.ops.hetero_noise.perturb_unrounded_(clean, dtype, *off, word, True, KERNEL != "reference")
    assert torch.equal(clean, x)


@pytest.mark.parametrize("op", [reference.perturb, torch.ops.hetero_noise.perturb])
def test_a_dtype_without_a_table(op: object, tmp_path: object) -> None:
    from pathlib import Path

    whole = wild(seed=3)
    profile = Profile(name="only", tables=whole.tables[:1])
    hold(written(profile, Path(str(tmp_path))), profile.digest)
    word = replay_word(profile.digest, "linear", 896, 7)
    declare(word)
    with pytest.raises((ConfigError, ValueError), match="no table for"):
        call(op, values(torch.float32, 9), word, 1.0)


def test_the_sums_of_an_attestation_notice_another_table(tmp_path: object) -> None:
    from pathlib import Path

    words = []
    for changed in (0.02, 0.05):
        profile = mild(changed)
        hold(written(profile, Path(str(tmp_path)), str(changed)), profile.digest)
        words.append(replay_word(profile.digest, "norm", 896, 7))
    x = torch.randn(200, 997, generator=torch.Generator().manual_seed(6)).bfloat16()
    keys = torch.arange(200), torch.tensor([5]), torch.tensor([1.0])
    y = reference.perturb(x, *keys, torch.tensor([[997, 5, 0, 0]]), words[0], True)
    right, wrong, clean = ProfileLook(), ProfileLook(), ProfileLook()
    right.add("here", words[0], 1.0, x, y)
    wrong.add("here", words[1], 1.0, x, y)
    clean.add("here", words[0], 1.0, x, x)
    assert all(passed for _, passed, _ in right.checks())
    assert not dict((n, p) for n, p, _ in wrong.checks())[
        "profiles: elements changed are as many as the table says"
    ]
    assert sum(not passed for _, passed, _ in clean.checks()) >= 2


def _interpreted() -> None:
    """Prints what differs, a JSON list, and how many were compared; under TRITON_INTERPRET=1."""
    from hetero_plugin.kernels.cuda import profile as cuda

    cuda.programs_of_rows = lambda rows, programs: min(rows, 3)  # so that one has several rows
    cuda.BLOCKS = 32
    wrong, compared = [], 0
    segments = torch.tensor([[180, 5, 3, 1], [1, 77, 0, 0], [119, 6, 1000, 1]])
    for fresh, ranges in WAYS[2:3]:
        word = word_of(fresh, ranges)
        for dtype in FLOATS:
            x = values(dtype, 9, 300)
            for scale in (1.0, 0.4):
                keys = torch.arange(9) * 7919, torch.tensor([5]), torch.tensor([0.0, scale])
                want = reference.perturb(x, *keys, segments, word, True)
                got = cuda.perturb(x, *keys, segments, word)
                wrong += [f"{fresh} {dtype} {scale}"] * (not torch.equal(bits(got), bits(want)))
                compared += 1
            if dtype == torch.float32:
                continue
            mine = x.float()
            cuda.perturb(mine, *keys, segments, word, in_place=True, rounds_to=dtype)
            wrong += [f"{dtype} rounded"] * (not torch.equal(bits(mine.to(dtype)), bits(want)))
            compared += 1
    print(json.dumps([wrong, compared]))


@pytest.mark.slow
def test_the_triton_kernel_is_the_reference_to_the_bit() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", "from tests.kernels import test_profile as t; t._interpreted()"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [[], 8]


if __name__ == "__main__":
    every_case()
    for each in SHAPES:
        test_every_shape_of_table_is_the_references(each)
    print("ran", KERNEL)
