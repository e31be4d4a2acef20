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

from hetero_plugin.kernels.cuda import (
    _DTYPES,
    BLOCK,
    MODELS,
    _draw,
    _float,
    _nearest,
    _philox,
    _with_error,
)

GATED, WEIGHED = 1, 2
NONE = -1
"""Model of a site without error."""


@triton.jit
def _source(
    x_ptr, clean_ptr, w_ptr, o_ptr, at, row, column, N, period, shift, mask,
    STEP: tl.constexpr, DTYPE: tl.constexpr, UNIT: tl.constexpr, IN_DTYPE: tl.constexpr,
):  # fmt: skip
    """The stored element that error goes on, and what is passed on at scale 0."""
    clean = tl.load(clean_ptr + at, mask=mask, other=0)
    if STEP == 1:
        gate = _float(tl.load(x_ptr + row * (2 * N) + column, mask=mask, other=0), DTYPE)
        raw = _nearest(tl.div_rn(gate, 1.0 + tl.exp(-gate)), DTYPE)
    else:
        unit = _float(tl.load(x_ptr + at, mask=mask, other=0), UNIT)
        weight = _float(tl.load(w_ptr + column % period, mask=mask, other=0), DTYPE)
        offset = tl.load(o_ptr + column % period, mask=mask, other=0.0)
        if IN_DTYPE:
            moved = _float(_nearest(offset, DTYPE), DTYPE)
            whole = _float(_nearest(weight + moved, DTYPE), DTYPE)
        else:
            whole = weight + offset
        shifted = _nearest(unit * (whole + shift), DTYPE)
        raw = tl.where(offset != 0.0, shifted, clean)
    return raw, clean


@triton.jit
def _fused(
    x_ptr, clean_ptr, w_ptr, o_ptr, keys_ptr, clock_ptr, scales_ptr,
    N: tl.int64, period: tl.int64, site: tl.int64, offset: tl.int64, slot: tl.int64,
    shift: tl.float32,
    STEP: tl.constexpr, MODEL: tl.constexpr, DTYPE: tl.constexpr, UNIT: tl.constexpr,
    IN_DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """As `cuda._perturb`, of one segment of N columns."""
    row = tl.program_id(0).to(tl.int64)
    scale = 0.0
    clock = tl.load(clock_ptr)
    key = clock
    if MODEL >= 0:  # without error a norm of each head may have more rows than there are keys
        scale = tl.load(scales_ptr + slot)
        key = tl.load(keys_ptr + row)
    index = tl.program_id(1).to(tl.int64) * BLOCK + (offset // 128) * 16 + tl.arange(0, BLOCK)
    first = (index // 16) * 128 + index % 16 - offset
    block = index.to(tl.uint32)
    key0 = (clock ^ (site >> 32)).to(tl.uint32)
    key1 = (clock >> 32).to(tl.uint32)
    c1 = tl.zeros([BLOCK], tl.uint32) + key.to(tl.uint32)
    c2 = tl.zeros([BLOCK], tl.uint32) + (key >> 32).to(tl.uint32)
    c3 = tl.zeros([BLOCK], tl.uint32) + site.to(tl.uint32)
    b0, b1, b2, b3 = block, block, block, block
    if STOCHASTIC and MODEL >= 0 and MODEL != 4:
        b0, b1, b2, b3 = _philox(block + 0x80000000, c1, c2, c3, key0, key1)
    for call in tl.static_range(2):
        za, zb, zc, zd = scale, scale, scale, scale
        if MODEL >= 0:
            za, zb, zc, zd = _draw(block, call, c1, c2, c3, key0, key1, scale, MODEL)
        ra = b0 if call == 0 else b2
        rb = b1 if call == 0 else b3
        for pair in tl.static_range(2):
            word = ra if pair == 0 else rb
            for half in tl.static_range(2):
                z = (za if half == 0 else zb) if pair == 0 else (zc if half == 0 else zd)
                r = (word & 0xFFFF) if half == 0 else (word >> 16)
                column = first + (call * 4 + pair * 2 + half) * 16
                mask = (column >= 0) & (column < N)
                at = row * N + column
                raw, clean = _source(
                    x_ptr, clean_ptr, w_ptr, o_ptr, at, row, column, N, period, shift, mask,
                    STEP, DTYPE, UNIT, IN_DTYPE,
                )  # fmt: skip
                y = raw
                if MODEL >= 0:
                    y = _with_error(raw, z, r, scale, MODEL, DTYPE, STOCHASTIC)
                if STEP == 1:
                    up = tl.load(x_ptr + row * (2 * N) + N + column, mask=mask, other=0)
                    product = _nearest(_float(y, DTYPE) * _float(up, DTYPE), DTYPE)
                    y = tl.where(scale == 0.0, clean, product)
                tl.store(clean_ptr + at, y, mask=mask)


def _stored(x: Tensor) -> Tensor:
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


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
) -> None:
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
    groups = -(-(first + columns) // 128) - first // 128
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        _fused[(rows, -(-groups * 16 // BLOCK))](
            _stored(x),
            _stored(clean),
            _stored(weight),
            offset,
            row_keys,
            clock,
            scales,
            columns,
            weight.numel(),
            site,
            first,
            slot,
            shift,
            STEP=step,
            MODEL=MODELS[error] if table else NONE,
            DTYPE=_DTYPES[clean.dtype],
            UNIT=_DTYPES[x.dtype],
            IN_DTYPE=in_dtype,
            STOCHASTIC=stochastic,
            BLOCK=BLOCK,
            num_warps=4,
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
) -> None:
    """See `hetero_plugin.kernels.fused.weighed_`.

    Each feature decides by its own offset whether it is clean, where the reference asks whether
    any is: an offset that is exactly 0 among others leaves the clean norm's own rounding there.
    """
    keys = row_keys, clock, scales, segments, error, stochastic
    known = segments.shape[0] == 0 or (segments.shape[0] == 1 and error in MODELS)
    if not known or weight.dtype != clean.dtype:
        from hetero_plugin.kernels import fused

        fused.weighed_(clean, unit, weight, offset, shift, in_dtype, *keys)
        return
    _launch(WEIGHED, unit, clean, weight, offset, shift, in_dtype, *keys)
