"""Number formats on CUDA, in Triton: `hetero_plugin.errors.formats`, the same float32 operations.

The kernel knows a format by its numbers (`Numbers`), of which only the rule and the block are
compiled for, so that calibrated scales make no variants. A program takes a tile of whole blocks and
goes through rows; where a row has a scale, a program has a row, reads it for its largest number and
goes through its tiles. A tensor's largest number is found before, by PyTorch, and stays on the
device. One launch a segment. Scales of rules are read from the device, as in `cuda.perturb`.

Products and sums are apart (no fused multiply-add), divisions are rounded (`div_rn`).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
import math
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hetero_plugin.errors.formats.numbers import Numbers, Rule, Span
from hetero_plugin.kernels.cuda.perturb import check_device, programs_of_rows, shape_of
from hetero_plugin.kernels.cuda.value import DTYPES, nearest, rounded, stored, widened

TILE = 1024
"""Columns of a program at a time."""
WARPS = 4
_SCALED, _NVFP4, _DIVIDED, _HIF4 = (
    tl.constexpr(int(rule)) for rule in (Rule.SCALED, Rule.NVFP4, Rule.NVFP4_DIVIDED, Rule.HIF4)
)
_CEIL, _EVEN, _RCEIL = (tl.constexpr(int(rule)) for rule in (Rule.CEIL, Rule.EVEN, Rule.RCEIL))
_ROW, _TENSOR = tl.constexpr(int(Span.ROW)), tl.constexpr(int(Span.TENSOR))


def of_aligned_pointers(function: Any) -> Any:
    """As `cuda.perturb.one_variant`, but for whether x and y lie at a multiple of 16 bytes."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    scalars = [name for name in names if not name.isupper()]
    others = [name for name in scalars if name not in ("x_ptr", "y_ptr")]
    return triton.jit(do_not_specialize=scalars, do_not_specialize_on_alignment=others)(function)


@triton.jit
def _bits(v):
    return v.to(tl.uint32, bitcast=True)


@triton.jit
def _float(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def widen(raw, DTYPE: tl.constexpr):
    """float32 of elements as they lie in memory, integers."""
    if DTYPE == 0:
        v = _float(raw.to(tl.uint16, bitcast=True).to(tl.uint32) << 16)
    elif DTYPE == 1:
        v = raw.to(tl.float16, bitcast=True).to(tl.float32)
    else:
        v = raw.to(tl.float32, bitcast=True)
    return v


@triton.jit
def narrow(v, DTYPE: tl.constexpr):
    """Elements as they lie in memory, of float32, to nearest."""
    y = rounded(v, v, v, v, DTYPE, False)
    if DTYPE == 0:
        raw = (y >> 16).to(tl.uint16).to(tl.int16, bitcast=True)
    elif DTYPE == 1:
        raw = y.to(tl.int16, bitcast=True)
    else:
        raw = y.to(tl.int32, bitcast=True)
    return raw


@triton.jit
def _power_of_two(e):
    """2**e for int32 e in [-127, 127]."""
    return tl.where(e < -126, 0x00400000, (e + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _exponent(bits):
    return ((bits >> 23) & 0xFF).to(tl.int32) - 127


@triton.jit
def _nearest(v, least, lift, low, high, sign):
    """The nearest number of a grid, ties to even: a number whose last place is the step there is
    added and taken away.

    least, lift: see `_grid`; sign: the bit that the result keeps of v, uint32.
    """
    v = tl.where(v > high, high, v)
    v = tl.where(v < low, low, v)
    bits = _bits(v)
    e = tl.maximum((bits & 0x7F800000).to(tl.int32, bitcast=True), least)
    large = (e + lift).to(tl.float32, bitcast=True)
    return _float(_bits((tl.abs(v) + large) - large) | (bits & sign))


@triton.jit
def _of_scale(v):
    """The nearest E4M3 of what is not negative."""
    return _nearest(v, 121 << 23, 20 << 23, -448.0, 448.0, 0x80000000)


@triton.jit
def _outer(most):
    """NVFP4's scale of a row or a tensor whose largest number is ``most``."""
    most = tl.where(most < 1.1754943508222875e-38, 1.1754943508222875e-38, most)
    g = tl.div_rn(1.0, most) * 2688.0
    return tl.where(g <= 3.4028234663852886e38, g, 1.0)


@triton.jit
def _factors(most, outer, divisor, floor, high, top, half, RULE: tl.constexpr):
    """What a block's elements are multiplied with (or divided by) before and after; and the sign
    that they keep.

    most: float32, its largest number; top: exponent of the grid's largest; half: what EVEN adds.
    """
    sign = tl.where(most == most, 0x80000000, 0x80000000).to(tl.uint32)
    one = tl.where(most == most, 1.0, 1.0)
    if RULE == _SCALED:
        scale = tl.div_rn(most, one * divisor)
        scale = tl.where(scale < floor, floor, scale)
        # A scale of 0 makes zeros without a sign.
        before, after = tl.where(scale == 0.0, 1.0, scale), scale
        sign = tl.where(scale == 0.0, 0, sign)
    elif RULE == _NVFP4:
        scale = _of_scale(outer * (most * 0.16666666666666666))
        inverse = tl.div_rn(one, scale * tl.div_rn(one, one * outer))
        before, after = tl.where(scale == 0.0, 0.0, inverse), tl.div_rn(scale, one * outer)
    elif RULE == _DIVIDED:
        scale = _of_scale(outer * tl.div_rn(most, one * 6.0))
        after = tl.div_rn(tl.where(scale == 0.0, 0.125, scale), one * outer)
        before = after
    else:
        bits = _bits(most)
        e = _exponent(bits) - top
        if RULE == _CEIL:
            e += ((bits & 0x7FFFFF) != 0).to(tl.int32)
        elif RULE == _EVEN:
            e = _exponent(bits.to(tl.int32, bitcast=True) + half) - top
        elif RULE == _RCEIL:
            ratio = _bits(tl.div_rn(most, one * high))
            # Below 2**-126 a number has no exponent of its own: is -127 enough?
            whole = tl.where(ratio < 0x800000, 0x400000, 0)
            e = _exponent(ratio) + ((ratio & 0x7FFFFF) > whole).to(tl.int32)
        e = tl.minimum(tl.maximum(e, -127), 127)
        before = _power_of_two(-e)
        after = tl.where(bits >= 0x7F800000, float("nan"), _power_of_two(e))
    return before, after, sign


@triton.jit
def _to_bfloat16(v):
    bits = _bits(v)
    return _float((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000)


@triton.jit
def _hif4(x, BLOCKS: tl.constexpr):
    """x, [BLOCKS, 64], in HiF4."""
    v = tl.reshape(x, [BLOCKS, 8, 2, 4])
    of_4 = tl.max((_bits(v) & 0x7FFFFFFF).to(tl.int32, bitcast=True), 3)
    of_8 = tl.max(of_4, 2)
    most = tl.max(of_8, 1)
    factor = _to_bfloat16(most.to(tl.float32, bitcast=True) * 0.142578125)
    factor = tl.where(factor < 3.552713678800501e-15, 3.552713678800501e-15, factor)
    factor = tl.where(factor > 49152.0, 49152.0, factor)
    scale = _nearest(factor, 67 << 23, 21 << 23, -65536.0, 65536.0, 0x80000000)
    inverse = _to_bfloat16(tl.div_rn(tl.where(scale == scale, 1.0, 1.0), scale))
    scale = tl.where(most >= 0x7F800000, float("nan"), scale)
    on_8 = of_8.to(tl.float32, bitcast=True) * inverse[:, None]
    on_4 = of_4.to(tl.float32, bitcast=True) * inverse[:, None, None]
    up_8 = (on_8 >= 4.0).to(tl.int32)[:, :, None]
    up = up_8 + (on_4 >= _power_of_two(1 + up_8)).to(tl.int32)
    size = tl.abs(v) * inverse[:, None, None, None]
    quarters = tl.floor(size * _power_of_two(2 - up)[:, :, :, None] + 0.5)
    quarters = tl.where(quarters > 7.0, 7.0, quarters)
    unit = scale[:, None, None] * _power_of_two(up - 2)
    q = unit[:, :, :, None] * quarters
    q = _float(_bits(q) | (_bits(v) & 0x80000000))
    return tl.reshape(q, [BLOCKS, 64])


@triton.jit
def _quantised(
    x, most, least, lift, top, half, low, high, divisor, floor, outer,
    RULE: tl.constexpr, SPAN: tl.constexpr, WHOLE: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Q(x) of [BLOCKS, BLOCK]. most: float32, of the span; WHOLE: that alone has a scale."""
    if RULE == _HIF4:
        q = _hif4(x, BLOCKS)
    else:
        of_block = most + tl.zeros([BLOCKS], tl.float32)
        if not WHOLE:
            sizes = (_bits(x) & 0x7FFFFFFF).to(tl.int32, bitcast=True)
            of_block = tl.max(sizes, 1).to(tl.float32, bitcast=True)
            if SPAN != 0:
                outer = _outer(most)
        before, after, sign = _factors(of_block, outer, divisor, floor, high, top, half, RULE)
        before = before[:, None]
        if (RULE == _SCALED) | (RULE == _DIVIDED):
            v = tl.div_rn(x, before + tl.zeros_like(x))
        else:
            v = x * before
        q = _nearest(v, least, lift, low, high, sign[:, None]) * after[:, None]
    return q


@of_aligned_pointers
def _formats(
    x_ptr, y_ptr, scales_ptr, most_ptr,
    in_place: tl.int32, rows: tl.int32, N: tl.int64, start: tl.int64, width: tl.int32,
    slot: tl.int32, least: tl.int32, lift: tl.int32, top: tl.int32, half: tl.int32,
    low: tl.float32, high: tl.float32, divisor: tl.float32, floor: tl.float32, outer: tl.float32,
    RULE: tl.constexpr, SPAN: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,
    DTYPE: tl.constexpr, KEPT: tl.constexpr, ALIGNED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One segment. BLOCK: columns of a block, TILE where the span alone has a scale (WHOLE).

    ALIGNED: 16 neighbouring elements lie at an address that is a multiple of 16.
    """
    scale = tl.load(scales_ptr + slot)
    if (scale != 0.0) | (in_place == 0):
        BLOCKS: tl.constexpr = TILE // BLOCK
        inside = tl.arange(0, BLOCKS)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        if ALIGNED:
            width = (width >> 4) << 4  # the compiler sees it, and that masks go by sixteen
        for row in range(tl.program_id(1), rows, tl.num_programs(1)):
            base = row * N + start  # 64 bits, as N has
            if ALIGNED:
                base = tl.multiple_of(base, 16)
            most = 0.0
            if SPAN == _TENSOR:
                most = tl.load(most_ptr)
            elif SPAN == _ROW:
                sizes = tl.zeros([BLOCKS, BLOCK], tl.int32)
                for first in range(0, width, TILE):
                    column = first + inside
                    raw = tl.load(x_ptr + base + column, mask=column < width, other=0)
                    v = widen(raw, KEPT)
                    if KEPT != DTYPE:
                        v = nearest(v, DTYPE)
                    size = (_bits(v) & 0x7FFFFFFF).to(tl.int32, bitcast=True)
                    sizes = tl.maximum(sizes, size)
                most = tl.max(tl.max(sizes, 1), 0).to(tl.float32, bitcast=True)
            for first in range(tl.program_id(0) * TILE, width, tl.num_programs(0) * TILE):
                column = first + inside
                raw = tl.load(x_ptr + base + column, mask=column < width, other=0)
                if scale != 0.0:
                    x = widen(raw, KEPT)
                    if KEPT != DTYPE:
                        x = nearest(x, DTYPE)
                    q = _quantised(
                        x, most, least, lift, top, half, low, high, divisor, floor, outer,
                        RULE, SPAN, WHOLE, BLOCKS,
                    )  # fmt: skip
                    y = tl.where(scale == 1.0, q, x + scale * (q - x))
                    if KEPT != DTYPE:
                        y = widened(rounded(y, y, y, y, DTYPE, False), DTYPE)
                    raw = narrow(y, KEPT)
                tl.store(y_ptr + base + column, raw, mask=column < width)


def _grid(numbers: Numbers) -> tuple[int, int, int, int]:
    """Exponents as they lie in float32's bits: that of the smallest normal number; that which lifts
    a number to one whose last place is its step; the largest one's, as it is; half of EVEN's last
    place."""
    top = math.frexp(numbers.high)[1] - 1
    lift = (23 - numbers.mantissa) << 23
    return (numbers.smallest + 127) << 23, lift, top, 1 << (22 - numbers.kept)


def _aligned(x: Tensor, y: Tensor, table: list[list[int]]) -> bool:
    """Whether every block of 16 elements of every row begins at a multiple of its size."""
    starts, begin = [x.shape[-1]], 0
    for row in table:
        starts.append(begin)
        begin += row[0]
    return all(one % 16 == 0 for one in starts) and all(t.data_ptr() % 16 == 0 for t in (x, y))


def perturb(
    x: Tensor,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    numbers: Numbers,
    *,
    in_place: bool = False,
    rounds_to: torch.dtype | None = None,
) -> Tensor:
    """x in a number format, blended by its scale: as `cuda.perturb.perturb`.

    Args:
        numbers: of the format.
        in_place, rounds_to: as there.

    Raises:
        TypeError: a dtype other than bfloat16, float16 and float32.
        ValueError: too few row keys, tables with gaps or on another device.
    """
    check_device(x, row_keys, clock, scales)
    rounds_to = rounds_to or x.dtype
    given, x = x, x.contiguous()
    y = x if in_place else torch.empty_like(x)
    table: list[list[int]] = segments.tolist()  # host memory: nothing waits for the device
    rows, columns = shape_of(x, row_keys, scales, table)
    if rows == 0:
        return y
    aligned = _aligned(x, y, table)
    values = stored(x, False), stored(y, False)
    start = 0
    for width, _, _, slot in table:
        tiles = 1 if numbers.span == Span.ROW else -(-width // TILE)
        most = scales
        if numbers.span == Span.TENSOR:
            of = x.view(rows, columns)[:, start : start + width].to(rounds_to)
            most = torch.linalg.vector_norm(of, torch.inf).float()
        # Triton launches on the current device, which need not be the tensor's.
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
            _formats[(tiles, programs_of_rows(rows, tiles))](
                *values,
                scales,
                most,
                int(in_place),
                rows,
                columns,
                start,
                width,
                slot,
                *_grid(numbers),
                numbers.low,
                numbers.high,
                numbers.divisor,
                numbers.floor,
                numbers.outer,
                **constants(numbers, rounds_to, x.dtype, aligned),
                num_warps=WARPS,
                enable_fp_fusion=False,
            )
        start += width
    if in_place and y is not given:
        given.copy_(y)
    return y


def constants(
    numbers: Numbers, rounds_to: torch.dtype, kept: torch.dtype, aligned: bool
) -> dict[str, int | bool]:
    """What the kernel is compiled for."""
    return {
        "RULE": int(numbers.rule),
        "SPAN": int(numbers.span),
        "WHOLE": numbers.block == 0,
        "BLOCK": numbers.block or TILE,
        "DTYPE": DTYPES[rounds_to],
        "KEPT": DTYPES[kept],
        "ALIGNED": aligned,
        "TILE": TILE,
    }
