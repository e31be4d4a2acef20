"""The operator in plain tensor arithmetic: what the fast kernels are checked against.

It also runs every error model that has no native kernel. Slow, on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.errors import error_model
from hetero_plugin.errors.profile import Replay, replay_of
from hetero_plugin.kernels.checks import check_dtype
from hetero_plugin.kernels.formats import fixed_clock

DRAWS = {
    "normal": random.normal,
    "uniform": random.uniform,
    "rounding": random.rounding_bits,
}


def stochastic_round(
    value: Tensor, bits: Tensor, dtype: torch.dtype, clean: Tensor, error: Tensor
) -> Tensor:
    """`value` rounded to a neighbour in `dtype`, with probabilities that keep the mean.

    Args:
        value: float32 [T, N], the clean value plus its error.
        bits: int64 [T, N], 16 random bits.
        dtype: bfloat16, float16 or float32.
        clean, error: float32 [T, N] whose sum is `value`; float32 output needs the part of the sum
            that float32 could not hold.
    """
    raw = value.contiguous().view(torch.int32)
    special = (raw & 0x7F800000) == 0x7F800000
    if dtype == torch.bfloat16:
        up = ((raw.to(torch.int64) + bits) & ~0xFFFF).to(torch.int32).view(torch.float32)
        return torch.where(special, value, up).to(dtype)
    if dtype == torch.float16:
        up = ((raw.to(torch.int64) + (bits >> 3)) & ~0x1FFF).to(torch.int32).view(torch.float32)
        # Below 2**-14 float16 is a fixed-point format with step 2**-24.
        fixed = torch.floor(value.abs() * 2.0**24 + bits.to(torch.float32) * 2.0**-16) * 2.0**-24
        up = torch.where(value.abs() < 2.0**-14, torch.copysign(fixed, value), up)
        return torch.where(special, value, up).to(dtype)
    if dtype == torch.float32:
        # TwoSum (Knuth): value + lost == clean + error exactly.
        virtual = value - clean
        lost = (clean - (value - virtual)) + (error - virtual)
        away = (lost > 0) == (value > 0)
        neighbour = torch.where(away, raw + 1, raw - 1).view(torch.float32)
        gap = (neighbour - value).abs()
        move = lost.abs() * 65536.0 > bits.to(torch.float32) * gap
        move &= (lost != 0) & (value != 0) & ~special
        return torch.where(move, neighbour, value)
    raise TypeError(
        f"stochastic rounding to {dtype} is not defined; use bfloat16, float16, float32"
    )


def perturb(
    x: Tensor,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    error: str,
    stochastic: bool,
) -> Tensor:
    """See `hetero_plugin.operator.perturb`, which this implements."""
    check_dtype(x.dtype, "a tensor given to hetero_noise::perturb")
    columns = x.shape[-1]
    x_TN = x.reshape(-1, columns)
    rows = x_TN.shape[0]
    model = error_model(error)
    # Contiguous as the compiler is told, also where x is not (a transposed one).
    out_TN = x_TN.clone(memory_format=torch.contiguous_format)
    if rows == 0:
        return out_TN.reshape(x.shape)
    keys = row_keys.reshape(-1)[:rows]
    start = 0
    # Segments lie in host memory, so nothing here waits for the device, or hinders its capture.
    for n, key, first, slot in segments.tolist():
        site = torch.full((1,), key, dtype=torch.int64, device=x.device)
        x_Tn = x_TN[:, start : start + n]
        scale = scales[slot]
        if scale.device.type == "cpu" and torch.isnan(scale):
            raise RuntimeError(
                "hetero_noise: a rule that applies in one phase only (rollout or train) ran with "
                "no phase set; run the model inside `with phase(model, ...)`"
            )
        clean = x_Tn.to(torch.float32)
        if model.measured_word:
            replay = replay_of(model.measured_word)
            rounded = _replayed(replay, x_Tn, scale, clock, site, keys, first)
            rounded = torch.where(torch.isnan(scale), torch.full_like(rounded, torch.nan), rounded)
            out_TN[:, start : start + n] = torch.where(scale == 0, x_Tn, rounded)
            start += n
            continue
        z = DRAWS[model.draws](clock, site, keys, first, n) if model.draws else None
        if model.additive:
            addend = model.function(clean, scale, z)
            value = clean + addend
            if stochastic:
                bits = random.rounding_bits(clock, site, keys, first, n)
                rounded = stochastic_round(value, bits, x.dtype, clean, addend)
            else:
                rounded = value.to(x.dtype)
        else:
            rounded = model.function(clean, scale, z).to(x.dtype)
        # Where a NaN scale can't be seen from the host, its result is one that nobody overlooks.
        rounded = torch.where(torch.isnan(scale), torch.full_like(rounded, torch.nan), rounded)
        out_TN[:, start : start + n] = torch.where(scale == 0, x_Tn, rounded)
        start += n
    return out_TN.reshape(x.shape)


def _replayed(
    replay: Replay, x: Tensor, scale: Tensor, clock: Tensor, site: Tensor, keys: Tensor, first: int
) -> Tensor:
    """A profile's error: drawn for the address alone, or where a coin says so for the step too."""
    table = replay.table(x.dtype)
    fixed = torch.full_like(site, fixed_clock(replay))
    at = site, keys, first, x.shape[-1]
    words, coins = random.uniform_bits(fixed, *at), random.rounding_bits(fixed, *at)
    if table.fresh:
        anew = random.coin_bits(fixed, *at) < table.fresh
        words = torch.where(anew, random.uniform_bits(clock, *at), words)
        coins = torch.where(anew, random.rounding_bits(clock, *at), coins)
    return table.apply(x, words >> 1, coins, scale)


def perturb_(
    x: Tensor,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    error: str,
    stochastic: bool,
) -> None:
    """`perturb` in place."""
    x.copy_(perturb(x, row_keys, clock, scales, segments, error, stochastic))


def stream(clock: Tensor, site: Tensor, row: Tensor, start: int, columns: int, kind: int) -> Tensor:
    """Bits or normals by address, [T, columns]; clock, site, row: int64 [T].

    kind 0: the words of the normals (int32); 1: of rounding (int32); 2: the normals (float32);
    3: the words of the uniforms (int32); 4: the uniforms in ±1 (float32).
    """
    if kind in (2, 4):
        values = random.normal if kind == 2 else random.uniform
        return values(clock, site, row, start, columns).contiguous()
    bits = {0: random.normal_bits, 1: random.rounding_bits, 3: random.uniform_bits}[kind]
    words = bits(clock, site, row, start, columns)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32).contiguous()
