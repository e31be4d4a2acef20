"""Sums of products as matrix units make them, in float64 tensors: what the C++ is checked against.

About 20 ns a product and core, on any device. M, N rows of the two operands, K what is summed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hetero_plugin.errors.accumulate.arithmetic import KINDS

__all__ = ["accumulate", "blocked"]

_NOTHING = -4000


def _power(e: Tensor) -> Tensor:
    """2**e, float64, exactly, for integer e in [-1022, 1023]."""
    return ((e.to(torch.int64) + 1023) << 52).view(torch.float64)


def _exponent(x: Tensor, smallest: int) -> Tensor:
    """Of float32 numbers, not normalised below ``smallest``; int32; 0: far below all others."""
    bits = x.view(torch.int32)
    e = (((bits >> 23) & 0xFF) - 127).clamp(min=smallest)
    return torch.where(x == 0, _NOTHING, e)


def _toward_zero(v: Tensor, mantissa: int) -> Tensor:
    """float64 v as a float with float32's exponents and so many bits, cut off; float32."""
    kept = (v.view(torch.int64) & ~((1 << (52 - mantissa)) - 1)).view(torch.float64)
    step = 2.0 ** (-126 - mantissa)
    small = torch.trunc(v / step) * step
    cut = torch.where(v.abs() < 2.0**-126, small, kept)
    return torch.where(v.isfinite(), cut, v).to(torch.float32)


def _one_nan(y: Tensor) -> Tensor:
    canonical = torch.full_like(y, 0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    return torch.where(y.isnan(), canonical, y)


def _top(a: Tensor, b: Tensor, smallest: int) -> Tensor:
    """The largest exponent of the products of a chunk, [M, N]; capped where one is no number."""
    ea, eb = _exponent(a, smallest), _exponent(b, smallest)
    return (ea[:, None, :] + eb[None, :, :]).amax(dim=-1).clamp(max=300)


def _cut_sum(a: Tensor, b: Tensor, top: Tensor, fraction: int, overflows: bool) -> Tensor:
    """The products, cut off ``fraction`` bits below 2**top and added; units of that; float64."""
    scale = _power(fraction - top)
    total = torch.zeros_like(scale)
    for k in range(a.shape[1]):
        p = a[:, k].double()[:, None] * b[:, k].double()
        if overflows:
            p = torch.where(p.abs() >= 2.0**128, p * math.inf, p)
        total += torch.trunc(p * scale)
    return total


def _aligned(c: Tensor, a: Tensor, b: Tensor, n: dict[str, int]) -> Tensor:
    top = torch.maximum(_top(a, b, n["smallest"]), _exponent(c, -126).clamp(min=n["zero"]))
    total = _cut_sum(a, b, top, n["fraction"], overflows=False)
    total += torch.trunc(c.double() * _power(n["fraction"] - top))
    v = total * _power(top - n["fraction"])
    y = v.to(torch.float32) if n["nearest"] else _toward_zero(v, n["mantissa"])
    return _one_nan(y + 0.0)


def _floored(c: Tensor, a: Tensor, b: Tensor, n: dict[str, int]) -> Tensor:
    fraction = n["fraction"]
    dot = _top(a, b, n["smallest"]).clamp(min=-400)
    s = _cut_sum(a, b, dot, fraction, overflows=True)
    top = torch.maximum(dot, _exponent(c, -126).clamp(min=-126))
    s = torch.floor(s * _power(dot - top + (32 - fraction))) * 2.0**-32
    s = s + torch.floor(c.double() * _power(fraction - top)) * 2.0**-fraction
    v = s * _power(top)
    own = (torch.frexp(v).exponent - 1).clamp(min=-126, max=400)
    floor = torch.floor(v * _power(31 - own)) * _power(own - 31)
    return _one_nan(torch.where(v.isfinite(), floor, v).to(torch.float32))


def _flushed(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 2.0**-126, x * 0.0, x)


def _pairs(c: Tensor, a: Tensor, b: Tensor, n: dict[str, int]) -> Tensor:
    p = [_flushed(a[:, k, None] * b[None, :, k]) for k in range(4)]
    return _flushed(c + _flushed(_flushed(p[0] + p[1]) + _flushed(p[2] + p[3])))


def _chain(c: Tensor, a: Tensor, b: Tensor, n: dict[str, int]) -> Tensor:
    for k in range(a.shape[1]):
        c = _fused(a[:, k, None], b[None, :, k], c)
    return c


def _fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a·b + c rounded once, float32: by the sum in float64, rounded to odd."""
    p, wide = a.double() * b.double(), c.double()
    total = p + wide
    virtual = total - p
    lost = (p - (total - virtual)) + (wide - virtual)
    bits = total.view(torch.int64)
    # An even last bit and something lost: the neighbour on the side of what was lost is odd.
    away = (lost > 0) == (total > 0)
    odd = torch.where(away, bits + 1, bits - 1).view(torch.float64)
    inexact = (lost != 0) & total.isfinite() & (bits & 1 == 0) & (total != 0)
    return torch.where(inexact, odd, total).to(torch.float32)


_STEPS: dict[str, Callable[[Tensor, Tensor, Tensor, dict[str, int]], Tensor]] = {
    "aligned": _aligned,
    "floored": _floored,
    "pairs": _pairs,
    "chain": _chain,
}


def _pieces(k: int, chunk: int, split: int) -> Iterator[list[slice]]:
    """The chunks of each piece of K."""
    chunks = math.ceil(math.ceil(k / split) / chunk)
    piece = max(1, chunks) * chunk
    for start in range(0, max(k, 1), piece):
        end = min(start + piece, k)
        yield [slice(i, min(i + chunk, end)) for i in range(start, end, chunk)]


def accumulate(a_MK: Tensor, b_NK: Tensor, numbers: Sequence[int]) -> Tensor:
    """a·bᵀ as `hetero_plugin.kernels.product` says; float32 [M, N]."""
    return _sum(a_MK, b_NK, numbers, _STEPS[KINDS[numbers[0]]])


def blocked(a_MK: Tensor, b_NK: Tensor, numbers: Sequence[int]) -> Tensor:
    """Nearly so, with one product of matrices a chunk, of kind ``aligned``.

    Only the accumulator's rounding toward zero is there; products that are far smaller than the
    largest are not cut off.
    """

    def step(c: Tensor, a: Tensor, b: Tensor, n: dict[str, int]) -> Tensor:
        return _toward_zero(c.double() + a.double() @ b.double().T, n["mantissa"])

    return _sum(a_MK, b_NK, numbers, step)


def _sum(
    a: Tensor,
    b: Tensor,
    numbers: Sequence[int],
    step: Callable[[Tensor, Tensor, Tensor, dict[str, int]], Tensor],
) -> Tensor:
    names = "kind chunk fraction zero smallest mantissa nearest promote split halves reversed"
    n = dict(zip(names.split(), numbers, strict=True))
    chunk = n["chunk"]
    if KINDS[n["kind"]] == "pairs":
        a, b = (torch.where(x.abs() < 2.0 ** n["smallest"], 0.0, x) for x in (a, b))
    if n["reversed"]:
        a, b = a.flip(1), b.flip(1)
    every = n["promote"] // chunk
    sums = []
    for piece in _pieces(a.shape[1], chunk, n["split"]):
        c = a.new_zeros(a.shape[0], b.shape[0])
        run = torch.zeros_like(c)
        for number, at in enumerate(piece, 1):
            x, y = (
                torch.nn.functional.pad(z[:, at], (0, chunk - (at.stop - at.start))) for z in (a, b)
            )
            c = step(c, x, y, n)
            if every and number % every == 0:
                run, c = run + c, torch.zeros_like(c)
        sums.append(run + c if every else c)
    total = sums[0]
    if len(sums) > 1:
        total = torch.zeros_like(total)
        for one in sums:
            total = total + (one.bfloat16().float() if n["halves"] else one)
    return total
