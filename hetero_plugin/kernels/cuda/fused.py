"""The CUDA kernels of `hetero_plugin.kernels.fused`: error and the pointwise step, in one pass.

What is saved is what the steps would read and write between them. Only for a site that is one
segment with one native error model, and for silu; anything else takes the steps one by one.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from hetero_plugin.kernels.cuda.draw import row_of
from hetero_plugin.kernels.cuda.perturb import (
    TILE,
    check_device,
    one_variant,
    programs_of,
    programs_of_rows,
    with_errors,
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
    # A pair's weights and its two offsets, by slot; column stands for what a gate has not.
    features = ((column, column, column),) * 8
    if STEP_KIND == 2:
        # One division; a pair that lies outside of the columns reads what another needs.
        feature = column % period
        most = tl.zeros([TILE], tl.float32)
        features = ()
        for _ in tl.static_range(8):
            pair, a, d, feature = _feature(w_ptr, o_ptr, feature, period, DTYPE)
            features += ((pair, a, d),)
            most = tl.maximum(most, tl.maximum(tl.abs(a), tl.abs(d)))
        work = work | (tl.max(most, 0) != 0.0)
    if work:
        clock = tl.load(clock_ptr)
        aid = aid_of(scale, MODEL)
        for row in range(tl.program_id(1), rows, tl.num_programs(1)):
            base = row * N
            clean_at = pointers(clean_ptr, base, column, PAIRED)
            x_at = pointers(x_ptr, base * 2 if STEP_KIND == 1 else base, column, PAIRED)
            up_at = pointers(x_ptr, base * 2 + N, column, PAIRED) if STEP_KIND == 1 else x_at
            pairs = ()
            for i in tl.static_range(8):
                weights, offset_a, offset_b = features[i]
                pairs += (
                    _source(
                        clean_at, x_at, column, count, weights, offset_a, offset_b, shift, 16 * i,
                        STEP_KIND, DTYPE, KEPT, UNIT, IN_DTYPE, PAIRED,
                    ),
                )  # fmt: skip
            # All loads before the first store, behind which the compiler would leave them.
            ups = pairs
            if STEP_KIND == 1:
                ups = ()
                for i in tl.static_range(8):
                    ups += (load(up_at, column, count, 16 * i, PAIRED, DTYPE),)
            if scale != 0.0:
                at = row_of(clock, site, tl.load(keys_ptr + row))
                pairs = with_errors(
                    pairs, block, at, scale, aid, MODEL, DTYPE, KEPT, STOCHASTIC, DRAW, FAST
                )  # fmt: skip
            for i in tl.static_range(8):
                _finish(
                    clean_at, column, count, pairs[i], ups[i], 16 * i,
                    STEP_KIND, DTYPE, KEPT, PAIRED,
                )  # fmt: skip


def _rows(clean: Tensor, columns: int, slot: int, row_keys: Tensor, scales: Tensor) -> int:
    """Rows of ``clean``; raises ValueError where keys or the segment do not fit it."""
    rows = clean.numel() // columns
    if row_keys.numel() < rows:
        raise ValueError(f"hetero_noise: {rows} rows but {row_keys.numel()} row keys")
    if rows * columns != clean.numel() or not 0 <= slot < scales.numel():
        raise ValueError(
            f"hetero_noise: the segments cover {columns} columns from slot {slot}; the tensor is "
            f"{list(clean.shape)}, the scale table has {scales.numel()} slots"
        )
    return rows


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
    rows = _rows(clean, columns, slot, row_keys, scales) if table else clean.numel() // columns
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
