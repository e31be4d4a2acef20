"""What a wrong attention would have computed, from the inputs that were recorded.

T rows, H heads of D features. Inputs are q [T, H·D], k and v [T, Hkv·D], after RoPE.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["BASES", "exchanged", "faults", "mixed", "turned"]

BASES = (1e4, 5e5, 1e6)
"""Bases of RoPE that models in use have."""


def mixed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sequences: Sequence[int],
    scaling: float,
    *,
    causal: bool = True,
) -> Tensor:
    """softmax(q·kᵀ · scaling)·v in float64, [T, H, D], of q, k and v [T, H, D] each."""
    found, start = [], 0
    for length in sequences:
        one, two, three = (x[start : start + length].double().transpose(0, 1) for x in (q, k, v))
        scores = one @ two.transpose(1, 2) * scaling
        if causal:
            later = torch.ones(length, length, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        found.append((torch.softmax(scores, -1) @ three).transpose(0, 1))
        start += length
    return torch.cat(found)


def turned(x: Tensor, positions: Tensor, base: float, other: float) -> Tensor:
    """Heads [T, H, D] after RoPE of a base, as RoPE of another base would have left them.

    Features d and d + D / 2 are a pair, as in Llama and Qwen.
    """
    half = x.shape[-1] // 2
    powers = torch.arange(half, dtype=torch.float64) / half
    angle = positions.double()[:, None, None] * (other**-powers - base**-powers)
    cos, sin = angle.cos(), angle.sin()
    one, two = x[..., :half].double(), x[..., half:].double()
    return torch.cat([one * cos - two * sin, two * cos + one * sin], -1)


def faults(
    inputs: Mapping[str, Tensor],
    head: int,
    scaling: float,
    sequences: Sequence[int],
    positions: Sequence[int],
) -> Iterator[tuple[str, str, Tensor]]:
    """Faults that can be tried without weights.

    Args:
        inputs: q, k and v.
        head: D.
        scaling: of the scores.
        sequences: rows of each.
        positions: of each row, [T].

    Yields:
        Cause, what exactly, and what attention would then give, float64 [T, H·D].
    """
    q, k, v = (inputs[name].reshape(len(inputs[name]), -1, head) for name in "qkv")
    groups = q.shape[1] // k.shape[1]
    at = torch.arange(q.shape[1])
    places = torch.tensor(positions)

    def flat(
        q: Tensor, k: Tensor, v: Tensor, scale: float = scaling, causal: bool = True
    ) -> Tensor:
        return mixed(q, k, v, sequences, scale, causal=causal).flatten(1)

    def kv(index: Tensor) -> tuple[Tensor, Tensor]:
        return k[:, index], v[:, index]

    right = kv(at // groups)
    if groups > 1 and k.shape[1] > 1:
        said = "each head of q reads head h mod Hkv of k and v, not h div (H / Hkv)"
        yield "head", said, flat(q, *kv(at % k.shape[1]))
    for factor, said in (
        (head**0.5, "the scores are not divided by √D"),
        (head**-0.5, "the scores are divided by √D twice"),
    ):
        yield "scale", said, flat(q, *right, scale=scaling * factor)
    yield "mask", "rows see what follows them", flat(q, *right, causal=False)
    for base in BASES:
        for other in BASES:
            if other != base:
                turned_q, turned_k = (turned(x, places, base, other) for x in (q, right[0]))
                said = f"as if the base were {other:g} rather than {base:g}"
                yield "RoPE base", said, flat(turned_q, turned_k, right[1])


def exchanged(
    inputs: Mapping[str, Tensor],
    output: Tensor,
    columns: Tensor,
    head: int,
    scaling: float,
    sequences: Sequence[int],
    size: Tensor,
    most: float,
) -> dict[int, int]:
    """Heads that hold another head's result.

    Args:
        inputs: q, k and v.
        output: what the machine gave / the row's size, float64 [T, C].
        columns: which of the H·D columns those are.
        head, scaling, sequences: as of `faults`.
        size: of each row, [T].
        most: RMS of the difference up to which a head is another.

    Returns:
        Head -> the one whose result it holds; empty unless each wrong head holds one.
    """
    q, k, v = (inputs[name].reshape(len(inputs[name]), -1, head) for name in "qkv")
    at = torch.arange(q.shape[1]) // (q.shape[1] // k.shape[1])
    right = mixed(q, k[:, at], v[:, at], sequences, scaling) / size[:, None, None]
    found = {}
    for h in columns.div(head, rounding_mode="floor").unique().tolist():
        kept = torch.nonzero(columns // head == h)[:, 0]
        each = right[:, :, columns[kept] % head] - output[:, None, kept]
        off = each.square().mean((0, 2)).sqrt()
        if off[h] <= most:
            continue
        other = int(off.argmin())
        if off[other] > most or off[other] > off[h] / 4:
            return {}
        found[int(h)] = other
    return found
