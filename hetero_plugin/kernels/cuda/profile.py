"""Measured profiles on CUDA, in Triton: `hetero_plugin.errors.profile`, the same integers.

A program has a row: it reads it for its largest number, for the sum of squares that its RMS is of,
and then goes through the generator's blocks as `cuda.perturb` does. Tables lie on the device; what
most elements need of them is nothing (their word means no difference in any bin of large numbers),
and lanes that need nothing load nothing.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.errors.profile import Drawn, replay_of
from hetero_plugin.errors.profile.bins import BITS, LOWEST
from hetero_plugin.kernels.cuda.draw import philox, row_of
from hetero_plugin.kernels.cuda.formats import narrow, widen
from hetero_plugin.kernels.cuda.perturb import (
    check_device,
    one_variant,
    programs_of_rows,
    shape_of,
)
from hetero_plugin.kernels.cuda.value import DTYPES, stored

BLOCKS = 128
"""Blocks of the generator, of eight columns, at a time."""
WARPS = 4
_MOST_BINS = 32
_LOWEST, _BITS, _FIELD = tl.constexpr(LOWEST), tl.constexpr(BITS - 1), tl.constexpr(_MOST_BINS)


@triton.jit
def _magnitude(raw, DTYPE: tl.constexpr, KEPT: tl.constexpr):
    """|x| in float32, 0 of what is not finite."""
    v = widen(raw, KEPT)
    if KEPT != DTYPE:
        v = widen(narrow(v, DTYPE), DTYPE)
    size = v.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return tl.where(size < 0x7F800000, size, 0)


@triton.jit
def _power_below(raw, DTYPE: tl.constexpr):
    """The power of two at or below |x| in float32, at least float16's smallest normal number.

    Of bfloat16 and float32 that is 2^-126, and what 0 stands in its place for is in the first bin
    like it.
    """
    power = widen(raw, DTYPE).to(tl.int32, bitcast=True) & 0x7F800000
    if DTYPE == 1:
        power = tl.maximum(power, 0x38800000)
    return power.to(tl.float32, bitcast=True)


@triton.jit
def _inverse_rms(
    x_ptr, base, width, DTYPE: tl.constexpr, KEPT: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """1 / RMS of a row, 0 of a row of zeros."""
    inside = tl.arange(0, TILE)
    sizes = tl.zeros([TILE], tl.int32)
    for first in range(0, width, TILE):
        column = first + inside
        raw = tl.load(x_ptr + base + column, mask=column < width, other=0)
        sizes = tl.maximum(sizes, _magnitude(raw, DTYPE, KEPT))
    e = tl.maximum((tl.max(sizes, 0) >> 23) - 127, _LOWEST)
    factor = ((-e + (_BITS + 127)) << 23).to(tl.float32, bitcast=True)
    sums = tl.zeros([TILE], tl.int64)
    for first in range(0, width, TILE):
        column = first + inside
        raw = tl.load(x_ptr + base + column, mask=column < width, other=0)
        v = _magnitude(raw, DTYPE, KEPT).to(tl.float32, bitcast=True)
        q = (v * factor + 0.5).to(tl.int32)
        sums += (q * q).to(tl.int64)
    mean = tl.div_rn(tl.sum(sums, 0).to(tl.float32), width.to(tl.float32))
    rms = tl.sqrt_rn(mean) * ((e + (127 - _BITS)) << 23).to(tl.float32, bitcast=True)
    one = tl.where(rms > 0.0, rms, 1.0)
    return tl.where(rms > 0.0, tl.div_rn(1.0, one), 0.0)


@triton.jit
def _difference(
    word, ratio, change, limits_ptr, ints_ptr, factors_ptr, entries, large, quiet_from, quiet_many,
    STEPS: tl.constexpr, RANGES: tl.constexpr,
):  # fmt: skip
    """The difference in ulps, int32; 0 where ``change`` is false."""
    quiet = (word - quiet_from < quiet_many) & (ratio >= large)
    change = change & (quiet == 0)
    bin = tl.zeros_like(word).to(tl.int32)
    for i in tl.static_range(5):
        step = 16 >> i
        limit = tl.load(limits_ptr + bin + (step - 1), mask=change, other=float("inf"))
        bin += tl.where(ratio >= limit, step, 0)
    start = tl.load(ints_ptr + 2 * _FIELD + bin, mask=change, other=0)
    clean = tl.load(ints_ptr + bin, mask=change, other=0).to(tl.uint32, bitcast=True)
    many = tl.load(ints_ptr + _FIELD + bin, mask=change, other=0).to(tl.uint32, bitcast=True)
    change = change & (word - clean >= many)
    low = start
    high = tl.load(ints_ptr + (2 * _FIELD + 1) + bin, mask=change, other=1) - 1
    upto_ptr = ints_ptr + (3 * _FIELD + 1)
    for _ in tl.static_range(STEPS):
        open = change & (low < high)
        middle = (low + high) >> 1
        upto = tl.load(upto_ptr + middle, mask=open, other=0).to(tl.uint32, bitcast=True)
        low = tl.where(open & (word >= upto), middle + 1, low)
        high = tl.where(open & (word < upto), middle, high)
    by = tl.load(upto_ptr + entries + low, mask=change, other=0)
    if RANGES:
        before = tl.load(upto_ptr + low - 1, mask=change & (low > start), other=0)
        rest = (word - before.to(tl.uint32, bitcast=True)).to(tl.int64)
        by += (rest * tl.load(factors_ptr + low, mask=change, other=0) >> 32).to(tl.int32)
    return by


@triton.jit
def _moved(bits, by, largest, SIGN: tl.constexpr):
    """Bits of numbers, int32, a difference further from zero, at most the largest finite one."""
    size = bits & (SIGN - 1)
    to = tl.minimum(size, largest - tl.maximum(by, 0)) + by
    to = tl.maximum(to, -largest)
    negative = ((bits != size) & (size != 0)) ^ (to < 0)
    made = tl.abs(to) | tl.where(negative & (to != 0), SIGN, 0).to(tl.int32)
    return tl.where(by != 0, made, bits)


@triton.jit
def _words(block, at, CALL: tl.constexpr):
    """Eight words of each block."""
    w0, w1, w2, w3 = philox(block + (1 << 29), at)
    w4, w5, w6, w7 = philox(block + ((1 << 30) | (1 << 29)), at)
    return w0, w1, w2, w3, w4, w5, w6, w7


@triton.jit
def _coins(block, at, CALL: tl.constexpr):
    """Eight words of 16 bits of each block."""
    c0, c1, c2, c3 = philox(block + (CALL << 30), at)
    low = 0xFFFF
    return c0 & low, c0 >> 16, c1 & low, c1 >> 16, c2 & low, c2 >> 16, c3 & low, c3 >> 16


@one_variant
def _profile(
    x_ptr, y_ptr, keys_ptr, clock_ptr, scales_ptr, limits_ptr, ints_ptr, factors_ptr,
    in_place: tl.int32, rows: tl.int32, N: tl.int64, start: tl.int64, width: tl.int32,
    site: tl.int64, offset: tl.int64, slot: tl.int32, fixed: tl.int64, fresh: tl.int32,
    largest: tl.int32, entries: tl.int32, large: tl.float32, quiet_from: tl.int32,
    quiet_many: tl.int32,
    FRESH: tl.constexpr, DTYPE: tl.constexpr, KEPT: tl.constexpr, STEPS: tl.constexpr,
    RANGES: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """One segment. FRESH: 0 nothing is drawn with the step, 1 what a coin says, 2 all."""
    SIGN: tl.constexpr = 0x80000000 if DTYPE == 2 else 0x8000
    scale = tl.load(scales_ptr + slot)
    if (scale != 0.0) | (in_place == 0):
        clock = tl.load(clock_ptr)
        below = tl.ceil(tl.minimum(scale, 1.0) * 65536.0).to(tl.uint32)
        index = tl.arange(0, BLOCKS)
        shift = (offset & 127).to(tl.int32)
        for row in range(tl.program_id(1), rows, tl.num_programs(1)):
            base = row * N + start  # 64 bits, as N has
            inverse = 0.0
            if scale != 0.0:
                inverse = _inverse_rms(x_ptr, base, width, DTYPE, KEPT, BLOCKS * 8)
            key = tl.load(keys_ptr + row)
            held = row_of(fixed, site, key)
            now = row_of(clock, site, key)
            for first in range(0, width + shift, BLOCKS * 8):
                column = first + (index >> 4) * 128 + (index & 15) - shift
                block = ((offset >> 7) * 16 + (first >> 3)).to(tl.uint32) + index.to(tl.uint32)
                words = _words(block, now if FRESH == 2 else held, 0)
                none = block * 0
                coins = (none, none, none, none, none, none, none, none)
                if FRESH == 1:
                    tossed = _coins(block, held, 3)
                    anew = _words(block, now, 0)
                if scale < 1.0:
                    coins = _coins(block, now if FRESH == 2 else held, 2)
                    if FRESH == 1:
                        others = _coins(block, now, 2)
                        mixed = ()
                        for i in tl.static_range(8):
                            mixed += (tl.where(tossed[i] < fresh, others[i], coins[i]),)
                        coins = mixed
                for i in tl.static_range(8):
                    at = column + 16 * i
                    there = (at >= 0) & (at < width)
                    raw = tl.load(x_ptr + base + at, mask=there, other=0)
                    if scale != 0.0:
                        word = words[i]
                        if FRESH == 1:
                            word = tl.where(tossed[i] < fresh, anew[i], word)
                        word = word >> 1
                        mine = raw if KEPT == DTYPE else narrow(widen(raw, KEPT), DTYPE)
                        bits = mine.to(tl.int32)
                        if DTYPE != 2:
                            bits = bits & 0xFFFF
                        size = bits & (SIGN - 1)
                        ratio = _power_below(mine, DTYPE) * inverse
                        change = there & (size <= largest)
                        change = change & (coins[i] < below)
                        by = _difference(
                            word, ratio, change, limits_ptr, ints_ptr, factors_ptr, entries, large,
                            quiet_from.to(tl.uint32, bitcast=True),
                            quiet_many.to(tl.uint32, bitcast=True), STEPS, RANGES,
                        )  # fmt: skip
                        bits = _moved(bits, by, largest, SIGN)
                        made = bits if DTYPE == 2 else bits.to(tl.int16)
                        if scale != scale:
                            made = narrow(widen(made, DTYPE) * float("nan"), DTYPE)
                        raw = made if KEPT == DTYPE else narrow(widen(made, DTYPE), KEPT)
                    tl.store(y_ptr + base + at, raw, mask=there)


class Tables(NamedTuple):
    """A table on a device."""

    limits: Tensor
    """float32 [32], infinite behind the last."""
    ints: Tensor
    """int32: of each of 32 bins the first word that means no difference, how many do, the first
    entry; then thresholds and first values of entries."""
    factors: Tensor
    """int64, of entries."""


def tables_of(table: Drawn, device: torch.device) -> Tables:
    """Puts a table on a device."""

    def words(values: list[int]) -> Tensor:
        signed = [value - (1 << 32) if value >= 1 << 31 else value for value in values]
        return torch.tensor(signed, dtype=torch.int32, device=device)

    bins, entries = len(table.clean), len(table.thresholds)
    limits = [*table.limits] + [float("inf")] * (_MOST_BINS - bins + 1)
    pad = [0] * (_MOST_BINS - bins)
    starts = [*table.starts] + [entries] * (_MOST_BINS - bins)
    clean = [first for first, _ in table.clean] + pad
    many = [many for _, many in table.clean] + pad
    return Tables(
        torch.tensor(limits, dtype=torch.float32, device=device),
        words([*clean, *many, *starts, *table.thresholds, *table.firsts]),
        torch.tensor(table.factors, dtype=torch.int64, device=device),
    )


@cache
def _known(error: str, dtype: torch.dtype, device: torch.device) -> tuple[Drawn, Tables, int]:
    replay = replay_of(error)
    table = replay.table(dtype)
    return table, tables_of(table, device), random.clock_key(replay.seed, None)


def constants(table: Drawn, rounds_to: torch.dtype, kept: torch.dtype) -> dict[str, int | bool]:
    """What the kernel is compiled for."""
    return {
        "FRESH": 0 if table.fresh == 0 else 1 if table.fresh < 1 << 16 else 2,
        "DTYPE": DTYPES[rounds_to],
        "KEPT": DTYPES[kept],
        "STEPS": table.steps,
        "RANGES": table.has_ranges,
        "BLOCKS": BLOCKS,
    }


def perturb(
    x: Tensor,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    error: str,
    stochastic: bool = True,
    *,
    in_place: bool = False,
    rounds_to: torch.dtype | None = None,
) -> Tensor:
    """x with differences that were measured: as `cuda.perturb.perturb`.

    Args:
        error: a `replay_word`, whose profile this process has read.
        in_place, rounds_to: as there.

    Raises:
        ConfigError: the profile has no table for the dtype.
        TypeError: a dtype other than bfloat16, float16 and float32.
        ValueError: too few row keys, tables with gaps or on another device.
    """
    check_device(x, row_keys, clock, scales)
    rounds_to = rounds_to or x.dtype
    given, x = x, x.contiguous()
    y = x if in_place else torch.empty_like(x)
    segment: list[list[int]] = segments.tolist()  # host memory: nothing waits for the device
    rows, columns = shape_of(x, row_keys, scales, segment)
    if rows == 0:
        return y
    table, tables, fixed = _known(error, rounds_to, x.device)
    first, quiet_from, quiet_many = table.quiet
    large = table.limits[first - 1] if first else 0.0
    start = 0
    for width, site, offset, slot in segment:
        # Triton launches on the current device, which need not be the tensor's.
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
            _profile[(1, programs_of_rows(rows, 1))](
                stored(x, False),
                stored(y, False),
                row_keys,
                clock,
                scales,
                *tables,
                int(in_place),
                rows,
                columns,
                start,
                width,
                site,
                offset,
                slot,
                fixed,
                table.fresh,
                table.largest,
                len(table.thresholds),
                large,
                quiet_from,
                quiet_many if quiet_many < 1 << 31 else -(1 << 31),
                **constants(table, rounds_to, x.dtype),
                num_warps=WARPS,
                enable_fp_fusion=False,
            )
        start += width
    if in_place and y is not given:
        given.copy_(y)
    return y
