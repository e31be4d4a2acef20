"""The CUDA kernels of `hetero_plugin.kernels.fused`: error and the pointwise step, in one pass.

What is saved is what the steps would read and write between them. Only for a site that is one
segment with one native error model, and for silu; anything else takes the steps one by one.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, unused-ignore"
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from hetero_plugin.kernels.cuda.draw import row_of
from hetero_plugin.kernels.cuda.perturb import (
    TILE,
    bits_of,
    check_device,
    four_slots,
    one_variant,
    programs_of,
    programs_of_rows,
)
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
    rounded,
    split,
    store,
    stored,
    widened,
)

GATED, WEIGHED = 1, 2
NONE = -1
"""Model of a site without error."""


@triton.jit
def _keep(value, DTYPE: tl.constexpr):
    """float32 rounded to nearest, as `rounded` gives it."""
    return rounded(value, value, value, value, DTYPE, False)


@triton.jit
def _silu(x, DTYPE: tl.constexpr):
    # div_rn has a slow path that is called; the other is within 2 ulp of float32.
    denominator = 1.0 + tl.exp(-x)
    return _keep(tl.div_rn(x, denominator) if DTYPE == 2 else x / denominator, DTYPE)


@triton.jit
def _act(pair, DTYPE: tl.constexpr):
    a, b = split(pair, DTYPE)
    return join(_silu(a, DTYPE), _silu(b, DTYPE), DTYPE)


@triton.jit
def _product(pair, up, DTYPE: tl.constexpr):
    a, b = split(pair, DTYPE)
    c, d = split(up, DTYPE)
    return join(_keep(a * c, DTYPE), _keep(b * d, DTYPE), DTYPE)


@triton.jit
def _weigh(unit, weight, offset, shift, DTYPE: tl.constexpr, IN_DTYPE: tl.constexpr):
    whole = nearest(weight + nearest(offset, DTYPE), DTYPE) if IN_DTYPE else weight + offset
    return _keep(unit * (whole + shift), DTYPE)


@triton.jit
def _feature(w_ptr, o_ptr, feature, period, DTYPE: tl.constexpr):
    """A pair of weights, and the two offsets, from ``feature`` on; and the feature after 16 more.

    feature: -127 to period - 1, where negative nothing is read; period: at least 17.
    """
    after = feature + 1
    after = tl.where(after >= period, 0, after)
    offset_a = tl.load(o_ptr + feature, mask=feature >= 0, other=0.0)
    offset_b = tl.load(o_ptr + after, mask=after >= 0, other=0.0)
    low = tl.load(w_ptr + feature, mask=feature >= 0, other=0)
    high = tl.load(w_ptr + after, mask=after >= 0, other=0)
    if DTYPE == 2:
        pair = low.to(tl.uint32, bitcast=True).to(tl.int64) | (high.to(tl.int64) << 32)
    else:
        pair = low.to(tl.uint16, bitcast=True).to(tl.int32) | (high.to(tl.int32) << 16)
    feature += 16
    return pair, offset_a, offset_b, tl.where(feature >= period, feature - period, feature)


@triton.jit
def _shifted(
    clean, units, weights, offset_a, offset_b, shift,
    DTYPE: tl.constexpr, KEPT: tl.constexpr, UNIT: tl.constexpr, IN_DTYPE: tl.constexpr,
):  # fmt: skip
    """Pairs of a norm's result: clean where the feature's offset is 0, else weighed anew."""
    a, b = split(units, UNIT)
    c, d = split(weights, DTYPE)
    ya = _weigh(a, c, offset_a, shift, DTYPE, IN_DTYPE)
    yb = _weigh(b, d, offset_b, shift, DTYPE, IN_DTYPE)
    if KEPT != DTYPE:
        ya, yb = widened(ya, DTYPE), widened(yb, DTYPE)
    shifted = join(ya, yb, KEPT)
    if KEPT == 2:
        mask = tl.where(offset_a != 0.0, 0xFFFFFFFF, 0).to(tl.int64)
        mask = mask | (tl.where(offset_b != 0.0, 0xFFFFFFFF, 0).to(tl.int64) << 32)
    else:
        mask = tl.where(offset_a != 0.0, 0xFFFF, 0).to(tl.int32)
        mask = mask | (tl.where(offset_b != 0.0, 0xFFFF, 0).to(tl.int32) << 16)
    return (shifted & mask) | (clean & ~mask)


@triton.jit
def _source(
    clean_at, x_at, column, count, weights, offset_a, offset_b, shift, STEP: tl.constexpr,
    STEP_KIND: tl.constexpr, DTYPE: tl.constexpr, KEPT: tl.constexpr, UNIT: tl.constexpr,
    IN_DTYPE: tl.constexpr, PAIRED: tl.constexpr,
):  # fmt: skip
    """The pairs that error goes on."""
    x = load(x_at, column, count, STEP, PAIRED, UNIT)
    if STEP_KIND == 1:
        pair = _act(x, DTYPE)
    else:
        clean = load(clean_at, column, count, STEP, PAIRED, KEPT)
        pair = _shifted(
            clean, x, weights, offset_a, offset_b, shift, DTYPE, KEPT, UNIT, IN_DTYPE
        )  # fmt: skip
    return pair


@triton.jit
def _finish(
    at, column, count, pair, up, STEP: tl.constexpr, STEP_KIND: tl.constexpr,
    DTYPE: tl.constexpr, KEPT: tl.constexpr, PAIRED: tl.constexpr,
):  # fmt: skip
    if STEP_KIND == 1:
        pair = _product(pair, up, DTYPE)
    store(at, column, count, pair, STEP, PAIRED, KEPT)


@one_variant
def _fused(
    x_ptr, clean_ptr, w_ptr, o_ptr, keys_ptr, clock_ptr, scales_ptr,
    rows: tl.int32, N: tl.int64, period: tl.int32, site: tl.int64, offset: tl.int64,
    slot: tl.int32, shift: tl.float32,
    STEP_KIND: tl.constexpr, MODEL: tl.constexpr, DTYPE: tl.constexpr, KEPT: tl.constexpr,
    UNIT: tl.constexpr, IN_DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, PAIRED: tl.constexpr,
    FAST: tl.constexpr, DRAW: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """As `cuda._perturb`, of one segment of N columns."""
    index = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = (index >> 3) * 128 + (index & 7) * 2 - (offset & 127).to(tl.int32)
    block = ((offset >> 7) * 16).to(tl.uint32) + (index * 2).to(tl.uint32)
    count = N.to(tl.uint32)
    scale = 0.0
    if MODEL >= 0:
        scale = tl.load(scales_ptr + slot)
    work = scale != 0.0
    # Stands for what a gate has not.
    w0, w1, w2, w3, w4, w5, w6, w7 = column, column, column, column, column, column, column, column
    a0, a1, a2, a3, a4, a5, a6, a7 = column, column, column, column, column, column, column, column
    d0, d1, d2, d3, d4, d5, d6, d7 = column, column, column, column, column, column, column, column
    if STEP_KIND == 2:
        # One division; a pair that lies outside of the columns reads what another needs.
        feature = column % period
        most = tl.zeros([TILE], tl.float32)
        w0, a0, d0, feature = _feature(w_ptr, o_ptr, feature, period, DTYPE)
        most = tl.maximum(most, tl.maximum(tl.abs(a0), tl.abs(d0)))
        w1, a1, d1, feature = _feature(w_ptr, o_ptr, feature, period, DTYPE)
        most = tl.maximum(most, tl.maximum(tl.abs(a1), tl.abs(d1)))
        w2, a2, d2, feature = _feature(w_ptr, o_ptr, feature, period, DTYPE)
        most = tl.maximum(most, tl.maximum(tl.abs(a2), tl.abs(d2)))
        w3, a3, d3, feature = _feature(w_ptr, o_ptr, feature, period, DTYPE)
        most = tl.maximum(most, tl.maximum(tl.abs(a3), tl.abs(d3)))
        w4, a4, d4, feature = _feature(w_ptr, o_ptr, feature, period, DTYPE)
        most = tl.maximum(most, tl.maximum(tl.abs(a4), tl.abs(d4)))
        w5, a5, d5, feature = _feature(w_ptr, o_ptr, feature, period, DTYPE)
        most = tl.maximum(most, tl.maximum(tl.abs(a5), tl.abs(d5)))
        w6, a6, d6, feature = _feature(w_ptr, o_ptr, feature, period, DTYPE)
        most = tl.maximum(most, tl.maximum(tl.abs(a6), tl.abs(d6)))
        w7, a7, d7, feature = _feature(w_ptr, o_ptr, feature, period, DTYPE)
        most = tl.maximum(most, tl.maximum(tl.abs(a7), tl.abs(d7)))
        work = work | (tl.max(most, 0) != 0.0)
    if work:
        clock = tl.load(clock_ptr)
        aid = aid_of(scale, MODEL)
        for row in range(tl.program_id(1), rows, tl.num_programs(1)):
            base = row * N
            clean_at = pointers(clean_ptr, base, column, PAIRED)
            x_at = pointers(x_ptr, base * 2 if STEP_KIND == 1 else base, column, PAIRED)
            up_at = pointers(x_ptr, base * 2 + N, column, PAIRED) if STEP_KIND == 1 else x_at
            x0 = _source(
                clean_at, x_at, column, count, w0, a0, d0, shift, 0,
                STEP_KIND, DTYPE, KEPT, UNIT, IN_DTYPE, PAIRED,
            )  # fmt: skip
            x1 = _source(
                clean_at, x_at, column, count, w1, a1, d1, shift, 16,
                STEP_KIND, DTYPE, KEPT, UNIT, IN_DTYPE, PAIRED,
            )  # fmt: skip
            x2 = _source(
                clean_at, x_at, column, count, w2, a2, d2, shift, 32,
                STEP_KIND, DTYPE, KEPT, UNIT, IN_DTYPE, PAIRED,
            )  # fmt: skip
            x3 = _source(
                clean_at, x_at, column, count, w3, a3, d3, shift, 48,
                STEP_KIND, DTYPE, KEPT, UNIT, IN_DTYPE, PAIRED,
            )  # fmt: skip
            x4 = _source(
                clean_at, x_at, column, count, w4, a4, d4, shift, 64,
                STEP_KIND, DTYPE, KEPT, UNIT, IN_DTYPE, PAIRED,
            )  # fmt: skip
            x5 = _source(
                clean_at, x_at, column, count, w5, a5, d5, shift, 80,
                STEP_KIND, DTYPE, KEPT, UNIT, IN_DTYPE, PAIRED,
            )  # fmt: skip
            x6 = _source(
                clean_at, x_at, column, count, w6, a6, d6, shift, 96,
                STEP_KIND, DTYPE, KEPT, UNIT, IN_DTYPE, PAIRED,
            )  # fmt: skip
            x7 = _source(
                clean_at, x_at, column, count, w7, a7, d7, shift, 112,
                STEP_KIND, DTYPE, KEPT, UNIT, IN_DTYPE, PAIRED,
            )  # fmt: skip
            # All loads before the first store, behind which the compiler would leave them.
            u0 = load(up_at, column, count, 0, PAIRED, DTYPE) if STEP_KIND == 1 else x0
            u1 = load(up_at, column, count, 16, PAIRED, DTYPE) if STEP_KIND == 1 else x1
            u2 = load(up_at, column, count, 32, PAIRED, DTYPE) if STEP_KIND == 1 else x2
            u3 = load(up_at, column, count, 48, PAIRED, DTYPE) if STEP_KIND == 1 else x3
            u4 = load(up_at, column, count, 64, PAIRED, DTYPE) if STEP_KIND == 1 else x4
            u5 = load(up_at, column, count, 80, PAIRED, DTYPE) if STEP_KIND == 1 else x5
            u6 = load(up_at, column, count, 96, PAIRED, DTYPE) if STEP_KIND == 1 else x6
            u7 = load(up_at, column, count, 112, PAIRED, DTYPE) if STEP_KIND == 1 else x7
            if scale != 0.0:
                at = row_of(clock, site, tl.load(keys_ptr + row))
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
            _finish(clean_at, column, count, x0, u0, 0, STEP_KIND, DTYPE, KEPT, PAIRED)
            _finish(clean_at, column, count, x1, u1, 16, STEP_KIND, DTYPE, KEPT, PAIRED)
            _finish(clean_at, column, count, x2, u2, 32, STEP_KIND, DTYPE, KEPT, PAIRED)
            _finish(clean_at, column, count, x3, u3, 48, STEP_KIND, DTYPE, KEPT, PAIRED)
            _finish(clean_at, column, count, x4, u4, 64, STEP_KIND, DTYPE, KEPT, PAIRED)
            _finish(clean_at, column, count, x5, u5, 80, STEP_KIND, DTYPE, KEPT, PAIRED)
            _finish(clean_at, column, count, x6, u6, 96, STEP_KIND, DTYPE, KEPT, PAIRED)
            _finish(clean_at, column, count, x7, u7, 112, STEP_KIND, DTYPE, KEPT, PAIRED)


def _launch(
    step: int,
    x: Tensor,
    clean: Tensor,
    weight: Tensor,
    offset: Tensor,
    shift: float,
    in_dtype: bool,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    error: str,
    stochastic: bool,
    rounds_to: torch.dtype | None = None,
) -> None:
    rounds_to = rounds_to or clean.dtype
    check_device(clean, x, weight, offset, row_keys, clock, scales)
    given, x, clean = clean, x.contiguous(), clean.contiguous()
    if clean.numel() == 0:
        return
    table: list[list[int]] = segments.tolist()
    columns, site, first, slot = table[0] if table else (clean.shape[-1], 0, 0, 0)
    rows = clean.numel() // columns
    if table and row_keys.numel() < rows:
        raise ValueError(f"hetero_noise: {rows} rows but {row_keys.numel()} row keys")
    if rows * columns != clean.numel() or not 0 <= slot < max(1, scales.numel()):
        raise ValueError(
            f"hetero_noise: the segments cover {columns} columns from slot {slot}; the tensor is "
            f"{list(clean.shape)}, the scale table has {scales.numel()} slots"
        )
    even = (columns | first | weight.numel() | x.shape[-1] | clean.shape[-1]) % 2 == 0
    paired = even and pairs_lie_together(x, clean)
    programs = programs_of(first, columns)
    model = MODELS[error] if table else NONE
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        _fused[(programs, programs_of_rows(rows, programs))](
            stored(x, paired),
            stored(clean, paired),
            stored(weight, False),
            offset,
            row_keys,
            clock,
            scales,
            rows,
            columns,
            weight.numel(),
            site,
            first,
            slot,
            shift,
            STEP_KIND=step,
            MODEL=model,
            DTYPE=DTYPES[rounds_to],
            KEPT=DTYPES[clean.dtype],
            UNIT=DTYPES[x.dtype],
            IN_DTYPE=in_dtype,
            STOCHASTIC=stochastic,
            PAIRED=paired,
            FAST=rounds_to != torch.float32,
            DRAW=DRAWS.get(model, 2),
            TILE=TILE,
            num_warps=TILE // 32,
            enable_fp_fusion=False,
        )
    if clean is not given:
        given.copy_(clean)


def gated_(
    clean: Tensor,
    gate_up: Tensor,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    error: str,
    stochastic: bool,
    activation: str,
) -> None:
    """See `hetero_plugin.kernels.fused.gated_`."""
    keys = row_keys, clock, scales, segments, error, stochastic
    if activation != "silu" or segments.shape[0] != 1 or error not in MODELS:
        from hetero_plugin.kernels import fused

        fused.gated_(clean, gate_up, *keys, activation)
        return
    _launch(GATED, gate_up, clean, clean, scales, 0.0, False, *keys)


def weighed_(
    clean: Tensor,
    unit: Tensor,
    weight: Tensor,
    offset: Tensor,
    shift: float,
    in_dtype: bool,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    error: str,
    stochastic: bool,
    rounds_to: torch.dtype | None = None,
) -> None:
    """See `hetero_plugin.kernels.fused.weighed_`, or `unrounded.weighed_unrounded_` of a dtype.

    Each feature decides by its own offset whether it is clean, where the reference asks whether
    any is: an offset that is exactly 0 among others leaves the clean norm's own rounding there.
    """
    keys = row_keys, clock, scales, segments, error, stochastic
    known = segments.shape[0] == 0 or (segments.shape[0] == 1 and error in MODELS)
    # The kernel counts features on in steps of 16.
    if not known or weight.dtype != (rounds_to or clean.dtype) or weight.numel() < 17:
        from hetero_plugin.kernels import fused, unrounded

        how = unit, weight, offset, shift, in_dtype, *keys
        if rounds_to is None:
            fused.weighed_(clean, *how)
        else:
            unrounded.weighed_unrounded_(clean, rounds_to, *how)
        return
    _launch(WEIGHED, unit, clean, weight, offset, shift, in_dtype, *keys, rounds_to)
