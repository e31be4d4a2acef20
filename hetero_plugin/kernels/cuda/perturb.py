"""The CUDA kernel, in Triton: one pass over the tensor, integers as in `hetero_plugin.random`.

A program takes TILE pairs of neighbouring generator blocks of one segment, and goes through the
rows. A pair of blocks is six Philox calls for eight pairs of columns, sixteen apart; eight
neighbouring threads load sixteen neighbouring columns. Keys and scales are read from device tensors
and segments are scalars of the launch, so nothing waits for the host and a captured graph follows
later settings. No scalar of a launch is specialised on: another site or another slot is the same
compiled kernel.

At scale 0 a program ends when it has read the scale; out of place, when it has copied.

Launched with fused multiply-add off, for TwoSum's sake; what may be fused asks for it.

`TRITON_INTERPRET=1` runs this on a CPU, which is how its arithmetic is tested without a GPU.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hetero_plugin.kernels.cuda.draw import draw, philox, row_of
from hetero_plugin.kernels.cuda.value import (
    DRAWS,
    DTYPES,
    MODELS,
    aid_of,
    join,
    load,
    nearest,
    pairs_lie_together,
    pointers,
    split,
    store,
    stored,
    widened,
    with_error,
)

TILE = 32
"""Pairs of blocks of a program, which is one warp: 512 columns. Four warps would leave half of
their threads idle at the widths of small models."""
PROGRAMS = 1 << 14
"""Programs of a launch, if it has so many rows: four times what an H100 holds at once. Each goes
through rows until there are none left, so that a launch at scale 0 is short."""
SEGMENTS = 4
"""Segments of one launch; a tensor of more takes more launches."""


@triton.jit
def _slot(pair, za, zb, ra, rb, scale, aid, MODEL: tl.constexpr, DTYPE: tl.constexpr,
          KEPT: tl.constexpr, STOCHASTIC: tl.constexpr):  # fmt: skip
    """A pair with its errors; its elements' draws and random bits come from two blocks."""
    a, b = split(pair, KEPT)
    if KEPT != DTYPE:
        a, b = nearest(a, DTYPE), nearest(b, DTYPE)
    ya = with_error(a, za, ra, scale, aid, MODEL, DTYPE, STOCHASTIC)
    yb = with_error(b, zb, rb, scale, aid, MODEL, DTYPE, STOCHASTIC)
    if KEPT != DTYPE:
        ya, yb = widened(ya, DTYPE), widened(yb, DTYPE)
    return join(ya, yb, KEPT)


@triton.jit
def four_slots(
    x0, x1, x2, x3, block, b0, b1, c0, c1, at, scale, aid, CALL: tl.constexpr,
    MODEL: tl.constexpr, DTYPE: tl.constexpr, KEPT: tl.constexpr, STOCHASTIC: tl.constexpr,
    DRAW: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Four pairs of columns with their errors; b0, b1 and c0, c1: words of their rounding."""
    z0, z1, z2, z3 = draw(block, CALL, at, scale, DRAW, FAST)
    w0, w1, w2, w3 = draw(block + 1, CALL, at, scale, DRAW, FAST)
    low = 0xFFFF
    y0 = _slot(x0, z0, w0, b0 & low, c0 & low, scale, aid, MODEL, DTYPE, KEPT, STOCHASTIC)
    y1 = _slot(x1, z1, w1, b0 >> 16, c0 >> 16, scale, aid, MODEL, DTYPE, KEPT, STOCHASTIC)
    y2 = _slot(x2, z2, w2, b1 & low, c1 & low, scale, aid, MODEL, DTYPE, KEPT, STOCHASTIC)
    y3 = _slot(x3, z3, w3, b1 >> 16, c1 >> 16, scale, aid, MODEL, DTYPE, KEPT, STOCHASTIC)
    return y0, y1, y2, y3


@triton.jit
def bits_of(block, at, DRAWN: tl.constexpr):
    """The words of rounding of blocks, or anything."""
    b0, b1, b2, b3 = block, block, block, block
    if DRAWN:
        b0, b1, b2, b3 = philox(block + 0x80000000, at)
    return b0, b1, b2, b3


@triton.jit
def with_errors(
    pairs, block, at, scale, aid, MODEL: tl.constexpr, DTYPE: tl.constexpr, KEPT: tl.constexpr,
    STOCHASTIC: tl.constexpr, DRAW: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """The eight pairs of columns of two blocks with their errors."""
    x0, x1, x2, x3, x4, x5, x6, x7 = pairs
    b0, b1, b2, b3 = bits_of(block, at, STOCHASTIC and MODEL != 4)
    c0, c1, c2, c3 = bits_of(block + 1, at, STOCHASTIC and MODEL != 4)
    x0, x1, x2, x3 = four_slots(
        x0, x1, x2, x3, block, b0, b1, c0, c1, at, scale, aid,
        0, MODEL, DTYPE, KEPT, STOCHASTIC, DRAW, FAST,
    )  # fmt: skip
    x4, x5, x6, x7 = four_slots(
        x4, x5, x6, x7, block, b2, b3, c2, c3, at, scale, aid,
        1, MODEL, DTYPE, KEPT, STOCHASTIC, DRAW, FAST,
    )  # fmt: skip
    return x0, x1, x2, x3, x4, x5, x6, x7


def one_variant(function: Any) -> Any:
    """Compiles a kernel without a variant for arguments that are 1, or multiples of 16."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    scalars = [name for name in names if not name.isupper()]
    return triton.jit(do_not_specialize=scalars, do_not_specialize_on_alignment=scalars)(function)


@one_variant
def _perturb(
    x_ptr, y_ptr, keys_ptr, clock_ptr, scales_ptr,
    in_place: tl.int32, rows: tl.int32, N: tl.int64, first: tl.int64,
    w0: tl.int32, k0: tl.int64, o0: tl.int64, s0: tl.int32, e0: tl.int32,
    w1: tl.int32, k1: tl.int64, o1: tl.int64, s1: tl.int32, e1: tl.int32,
    w2: tl.int32, k2: tl.int64, o2: tl.int64, s2: tl.int32, e2: tl.int32,
    w3: tl.int32, k3: tl.int64, o3: tl.int64, s3: tl.int32, e3: tl.int32,
    MODEL: tl.constexpr, DTYPE: tl.constexpr, KEPT: tl.constexpr, STOCHASTIC: tl.constexpr,
    PAIRED: tl.constexpr, FAST: tl.constexpr, DRAW: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Segment i: width wi, site key ki, global first column oi, slot si, programs end at ei.

    Pointers as `stored` gives them. FAST: see draw.py. DRAW: DRAWS[MODEL].
    """
    program = tl.program_id(0)
    # Which segment this program works on, and where that starts in the row.
    width, site, offset, slot, begin, start = w0, k0, o0, s0, e0 * 0, first
    if program >= e0:
        width, site, offset, slot, begin, start = w1, k1, o1, s1, e0, first + w0
    if program >= e1:
        width, site, offset, slot, begin, start = w2, k2, o2, s2, e1, first + w0 + w1
    if program >= e2:
        width, site, offset, slot, begin, start = w3, k3, o3, s3, e2, first + w0 + w1 + w2
    scale = tl.load(scales_ptr + slot)
    if (scale != 0.0) | (in_place == 0):
        index = (program - begin) * TILE + tl.arange(0, TILE)
        # Of slot 0 and the pair's first element, within the segment; before it: negative.
        column = (index >> 3) * 128 + (index & 7) * 2 - (offset & 127).to(tl.int32)
        block = ((offset >> 7) * 16).to(tl.uint32) + (index * 2).to(tl.uint32)
        count = width.to(tl.uint32, bitcast=True)
        clock = tl.load(clock_ptr)
        aid = aid_of(scale, MODEL)
        for row in range(tl.program_id(1), rows, tl.num_programs(1)):
            base = row * N + start  # 64 bits, as N has
            source = pointers(x_ptr, base, column, PAIRED)
            target = pointers(y_ptr, base, column, PAIRED)
            # All loads before the first store, behind which the compiler would leave them.
            pairs = ()
            for i in tl.static_range(8):
                pairs += (load(source, column, count, 16 * i, PAIRED, KEPT),)
            if scale != 0.0:
                at = row_of(clock, site, tl.load(keys_ptr + row))
                pairs = with_errors(
                    pairs, block, at, scale, aid, MODEL, DTYPE, KEPT, STOCHASTIC, DRAW, FAST
                )  # fmt: skip
            for i in tl.static_range(8):
                store(target, column, count, pairs[i], 16 * i, PAIRED, KEPT)


def programs_of(offset: int, width: int) -> int:
    """How many programs a row takes."""
    groups = -(-(offset + width) // 128) - offset // 128
    return -(-groups * 8 // TILE)


def programs_of_rows(rows: int, programs: int) -> int:
    """How many programs share the rows."""
    return min(rows, max(1, PROGRAMS // programs), 65535)


def check_device(x: Tensor, *others: Tensor) -> None:
    """Raises ValueError for keys or tables that lie elsewhere than x."""
    for one in others:
        if one.device != x.device:
            raise ValueError(
                f"hetero_noise: keys or tables on {one.device}, the tensor is on {x.device}"
            )


def shape_of(
    x: Tensor, row_keys: Tensor, scales: Tensor, table: list[list[int]]
) -> tuple[int, int]:
    """Rows and columns of x; raises as `perturb` says."""
    if x.dtype not in DTYPES:
        raise TypeError(f"hetero_noise::perturb takes bfloat16, float16 or float32, got {x.dtype}")
    columns = x.shape[-1] if x.dim() else 0
    rows = x.numel() // columns if columns else 0
    covered = sum(row[0] for row in table)
    if covered != columns:
        raise ValueError(
            f"hetero_noise::perturb: the segments cover {covered} columns, the tensor has {columns}"
        )
    if row_keys.numel() < rows:
        raise ValueError(f"hetero_noise::perturb: {rows} rows but {row_keys.numel()} row keys")
    if not (row_keys.is_contiguous() and scales.is_contiguous()):
        raise ValueError("hetero_noise::perturb: keys and scales must be contiguous")
    if any(not 0 <= row[3] < scales.numel() for row in table):
        raise ValueError(
            f"hetero_noise::perturb: a slot is outside the scale table of {scales.numel()}"
        )
    return rows, columns


def _launches(table: list[list[int]]) -> Iterator[tuple[int, int, list[int]]]:
    """Of each launch: its first column, the programs of a row, its segments as arguments."""
    first = 0
    for start in range(0, len(table), SEGMENTS):
        part = table[start : start + SEGMENTS]
        arguments: list[int] = []
        end = 0
        for width, key, offset, slot in part:
            end += programs_of(offset, width)
            arguments += [width, key, offset, slot, end]
        yield first, end, arguments + [0, 0, 0, 0, end] * (SEGMENTS - len(part))
        first += sum(row[0] for row in part)


def perturb(
    x: Tensor,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    error: str,
    stochastic: bool,
    *,
    in_place: bool = False,
    fast: bool | None = None,
    rounds_to: torch.dtype | None = None,
) -> Tensor:
    """See `hetero_plugin.operator.perturb`, which this implements; ``in_place`` writes to x.

    Args:
        rounds_to: what x, float32, is about to be rounded to (kernels/unrounded.py).
        fast: normals from the special-function unit (see draw.py); default: but for float32.

    Raises:
        TypeError: a dtype other than bfloat16, float16 and float32.
        ValueError: no such error model here, too few row keys, tables with gaps, or keys and
            tables on another device, whose addresses the kernel could not read.
    """
    if error not in MODELS:
        raise ValueError(f"hetero_noise::perturb has no CUDA error model {error!r}")
    check_device(x, row_keys, clock, scales)
    rounds_to = rounds_to or x.dtype
    given, x = x, x.contiguous()
    y = x if in_place else torch.empty_like(x)
    table: list[list[int]] = segments.tolist()  # host memory: nothing waits for the device
    rows, columns = shape_of(x, row_keys, scales, table)
    if rows == 0:
        return y
    even = all((row[0] | row[2]) % 2 == 0 for row in table)
    paired = even and pairs_lie_together(x, y)
    values = stored(x, paired), stored(y, paired)
    model = MODELS[error]
    for first, end, arguments in _launches(table):
        # Triton launches on the current device, which need not be the tensor's.
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
            _perturb[(end, programs_of_rows(rows, end))](
                *values,
                row_keys,
                clock,
                scales,
                int(in_place),
                rows,
                columns,
                first,
                *arguments,
                MODEL=model,
                DTYPE=DTYPES[rounds_to],
                KEPT=DTYPES[x.dtype],
                STOCHASTIC=stochastic,
                PAIRED=paired,
                FAST=rounds_to != torch.float32 if fast is None else fast,
                DRAW=DRAWS[model],
                TILE=TILE,
                num_warps=TILE // 32,
                enable_fp_fusion=False,
            )
    if in_place and y is not given:
        given.copy_(y)
    return y
