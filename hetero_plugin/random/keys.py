"""Addresses: what a number is drawn for, as keys of 64 bits.

`hetero_plugin.random.numbers` says how they become the generator's counter and key.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_U64 = (1 << 64) - 1


def signed(value: int) -> int:
    """The int64 whose bits are the given unsigned 64-bit number."""
    value &= _U64
    return value - (1 << 64) if value >> 63 else value


def mix64(value: int) -> int:
    """A bijective, strongly mixing function of 64 bits (Stafford's variant 13; SplitMix64)."""
    value &= _U64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _U64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _U64
    return value ^ (value >> 31)


def mix64_tensor(value: Tensor) -> Tensor:
    """`mix64` of every element of an int64 tensor."""

    def shift(v: Tensor, n: int) -> Tensor:  # logical, not arithmetic
        return (v >> n) & ((1 << (64 - n)) - 1)

    value = (value ^ shift(value, 30)) * signed(0xBF58476D1CE4E5B9)
    value = (value ^ shift(value, 27)) * signed(0x94D049BB133111EB)
    return value ^ shift(value, 31)


def seed_base(seed: int) -> int:
    """The seed's share of the clock, an int64."""
    return signed(mix64((seed & _U64) + 0x9E3779B97F4A7C15))


def clock_key(seed: int, resample: int | None) -> int:
    """The int64 clock of a seed and a resample key (step or call number; None: fixed hardware).

    For one seed, different resample keys always give different clocks.
    """
    tag = 0 if resample is None else (resample & _U64) * 2 + 1
    return signed(mix64((seed_base(seed) ^ tag) & _U64))


def site_key(name: str, stream: str, rule: int = 0) -> int:
    """The int64 key of one stream of one site: a hash of its canonical name.

    Args:
        name: canonical site name, e.g. ``model.layers.3.self_attn.q_proj``.
        stream: what is perturbed, e.g. ``output``, ``grad_input``.
        rule: index of the rule in the spec, so that two rules on one site are independent.
    """
    text = f"hetero-noise/1\0{name}\0{stream}\0{rule}".encode()
    return signed(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def row_keys(token_ids: Tensor, positions: Tensor) -> Tensor:
    """Row keys, int64, of tokens: the id in the low 32 bits, the position in the high 32.

    Args:
        token_ids, positions: integer tensors of the same (or broadcastable) shape.
    """
    ids = token_ids.to(torch.int64)
    # Ids beyond 32 bits fold in rather than being cut off; no real tokenizer has them.
    folded = (ids ^ (ids >> 32)) & _MASK
    return folded | (positions.to(torch.int64) << 32)


def expert_keys(keys: Tensor, experts: Tensor) -> Tensor:
    """Row keys of tokens at experts, int64: one token at two experts is two rows.

    Args:
        keys: row keys of the tokens, int64.
        experts: number of the expert that each goes to, an integer tensor of the same shape.
    """
    return mix64_tensor(keys ^ ((experts.to(torch.int64) + 1) * signed(0x9E3779B97F4A7C15)))


def batch_key(keys: Tensor) -> Tensor:
    """One int64 for a set of rows in any order: what a micro-batch is, by its content."""
    return mix64_tensor(mix64_tensor(keys.reshape(-1)).sum())
