"""Addressed random numbers: keys in, bits / uniforms / normals out; nothing is stateful.

The generator is Philox4x32 with seven rounds (Salmon, Moraes, Dror, Shaw: "Parallel random
numbers: as easy as 1, 2, 3", SC11; seven rounds are Crush-resistant there). An address is

    clock     64 bits   seed and resample key (step, call, or nothing), mixed
    site key  64 bits   canonical site name, stream (direction and point), rule index
    row key   64 bits   token id in the low word, position in the high word
    column    29+3 bits global feature index, before tensor-parallel sharding

and is laid out as Philox key (clock.lo ^ site.hi, clock.hi) and counter
(block | domain << 29 | call << 30, row.lo, row.hi, site.lo).

One block is three Philox calls and serves eight columns: calls 0 and 1 give the eight 32-bit words
of the normals, call 2 the eight 16-bit words of the stochastic rounding, call 3 eight more for
whoever needs a coin (profiles). Uniforms are calls 0 and 1
of a domain of their own, bit 29 of the first counter word, which no block reaches (2**32 columns
are 2**29 blocks): whatever a site draws, and however it rounds, no word serves twice. Columns are
dealt to blocks so that sixteen *neighbouring* columns use the same word of sixteen neighbouring
blocks: a SIMD register (or half a warp) then holds neighbouring columns without any shuffling.

    group = column >> 7;  lane = column & 15;  slot = (column >> 4) & 7
    block = group * 16 + lane;  normal word = call (slot >> 2), word (slot & 3)
    Box-Muller pairs slot 2k (radius) with slot 2k+1 (angle): columns j and j + 16.
    A uniform is its word's top bit, the sign, and lowest 23 bits, the size.

Everything here is plain tensor arithmetic and serves as the definition that the fast kernels must
reproduce bit for bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROUNDS = 7
GROUP = 128  # columns served by 16 blocks
UNIFORM = 1 << 29  # in the first counter word: these words are of uniforms
_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # Philox4x32 multipliers
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # Weyl increments of the key


def philox(
    counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor], rounds: int = ROUNDS
) -> tuple[Tensor, ...]:
    """Philox4x32 on int64 tensors that hold unsigned 32-bit words; shapes broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = c0 * _M0, c2 * _M1  # the wrapped 64-bit product has the right bits
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def _words(
    clock: Tensor,
    site: Tensor,
    rows: Tensor,
    first_group: int,
    groups: int,
    calls: tuple[int, ...],
    domain: int = 0,
) -> Tensor:
    """Words of whole groups: int64 [rows, groups, len(calls) * 4, 16], each in [0, 2**32)."""
    clock, site, rows = (v.reshape(-1, 1, 1) for v in (clock, site, rows))
    block = (torch.arange(groups, device=rows.device)[:, None] + first_group) * 16 + torch.arange(
        16, device=rows.device
    )
    k0 = (clock ^ (site >> 32)) & _MASK
    k1 = (clock >> 32) & _MASK
    words: list[Tensor] = []
    for call in calls:
        counter = (
            block + (domain + (call << 30)),
            rows & _MASK,
            (rows >> 32) & _MASK,
            site & _MASK,
        )
        words += torch.broadcast_tensors(*philox(counter, (k0, k1)))
    return torch.stack(words, dim=2)


def _span(start: int, columns: int) -> tuple[int, int, slice]:
    first = start // GROUP
    groups = -(-(start + columns) // GROUP) - first
    return first, groups, slice(start - first * GROUP, start - first * GROUP + columns)


def normal_bits(clock: Tensor, site: Tensor, rows: Tensor, start: int, columns: int) -> Tensor:
    """The 32-bit words behind the normals, as int64 [T, columns].

    Args:
        clock, site, rows: int64 tensors with one element, or T elements, each.
        start: global index of the first column; columns: how many.
    """
    first, groups, cut = _span(start, columns)
    words = _words(clock, site, rows, first, groups, (0, 1))
    return words.reshape(words.shape[0], -1)[:, cut]


def rounding_bits(clock: Tensor, site: Tensor, rows: Tensor, start: int, columns: int) -> Tensor:
    """The 16-bit words of stochastic rounding, int64 [T, columns]; see `normal_bits`."""
    return _halves(clock, site, rows, start, columns, 2)


def coin_bits(clock: Tensor, site: Tensor, rows: Tensor, start: int, columns: int) -> Tensor:
    """16-bit words that nothing else of a site reads, int64 [T, columns]; see `normal_bits`."""
    return _halves(clock, site, rows, start, columns, 3)


def _halves(
    clock: Tensor, site: Tensor, rows: Tensor, start: int, columns: int, call: int
) -> Tensor:
    first, groups, cut = _span(start, columns)
    words = _words(clock, site, rows, first, groups, (call,))
    halves = torch.stack([words & 0xFFFF, words >> 16], dim=3)  # slot 2k: low half; 2k+1: high half
    return halves.reshape(words.shape[0], -1)[:, cut]


def uniform_bits(clock: Tensor, site: Tensor, rows: Tensor, start: int, columns: int) -> Tensor:
    """The 32-bit words behind the uniforms, int64 [T, columns]; see `normal_bits`."""
    first, groups, cut = _span(start, columns)
    words = _words(clock, site, rows, first, groups, (0, 1), UNIFORM)
    return words.reshape(words.shape[0], -1)[:, cut]


def uniform(
    clock: Tensor,
    site: Tensor,
    rows: Tensor,
    start: int,
    columns: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Uniforms in ±1, [T, columns]: k·2**-23 with |k| < 2**23, both signs of 0 among them.

    Arguments as `normal_bits`. Exact in float32; the mean is 0 by symmetry, the variance 1/3 within
    2e-7 of it.
    """
    words = uniform_bits(clock, site, rows, start, columns)
    size = (words & 0x7FFFFF).to(dtype) * 2.0**-23
    return torch.where((words >> 31).bool(), -size, size)


def normal(
    clock: Tensor,
    site: Tensor,
    rows: Tensor,
    start: int,
    columns: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normals [T, columns] by Box-Muller; tails reach 6.76 sigma.

    Arguments as `normal_bits`. ``dtype=torch.float64`` gives the reference values that the float32
    kernels are measured against.
    """
    first, groups, cut = _span(start, columns)
    words = _words(clock, site, rows, first, groups, (0, 1))
    radius_word, angle_word = words[:, :, 0::2], words[:, :, 1::2]
    uniform = radius_word.to(dtype) * 2.0**-32 + 2.0**-33
    radius = torch.sqrt(-2.0 * torch.log(uniform))
    # Reduced to an eighth turn in integers, where it costs nothing in accuracy.
    quadrant = ((angle_word + (1 << 29)) >> 30) & 3
    rest = angle_word - (quadrant << 30)
    rest = torch.where(rest >= 1 << 31, rest - (1 << 32), rest)
    angle = rest.to(dtype) * (2.0 * math.pi / 2.0**32)
    sine, cosine = torch.sin(angle), torch.cos(angle)
    odd = (quadrant & 1).bool()
    a, b = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    a = torch.where(((quadrant + 1) & 2).bool(), -a, a)  # cosine is negative in quadrants 1, 2
    b = torch.where((quadrant & 2).bool(), -b, b)  # sine is negative in quadrants 2, 3
    pairs = torch.stack([radius * a, radius * b], dim=3)
    return pairs.reshape(words.shape[0], -1)[:, cut]
