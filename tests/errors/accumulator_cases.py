"""Operands for tests of accumulators, by Python's generator, so that they stay the same."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "tf32": torch.float32,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
SORTS = (
    "gauss",
    "positive",
    "cancelling",
    "zeros",
    "spread",
    "denormal",
    "huge",
    "infinite",
    "any",
)
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def _from_bits(words: list[list[int]], dtype: torch.dtype) -> Tensor:
    size = dtype.itemsize
    signed = [
        [w - (1 << 8 * size) if w >> (8 * size - 1) and size > 1 else w for w in r] for r in words
    ]
    return torch.tensor(signed, dtype=_INTEGERS[size]).view(dtype)


def _rounded(values: list[list[float]], operand: str) -> Tensor:
    x = torch.tensor(values, dtype=torch.float32)
    if operand == "tf32":
        return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)
    return x.to(DTYPES[operand])


def operand(rows: int, k: int, name: str, sort: str, seed: int) -> Tensor:
    """[rows, k] of a type: normal numbers, and such as are hard to add."""
    r: Any = random.Random(f"{name} {sort} {seed}")
    dtype = DTYPES[name]
    bits = 8 * dtype.itemsize
    if sort in ("spread", "any"):
        x = _from_bits([[r.getrandbits(bits) for _ in range(k)] for _ in range(rows)], dtype)
        if name == "tf32":
            x = (x.view(torch.int32) & ~0x1FFF).view(torch.float32)
        if sort == "spread":  # every exponent, and numbers only
            wide = x.float()
            x = torch.where(wide.isfinite(), wide, 1.0).to(dtype)
        return x
    values = [[r.gauss(0, 1) for _ in range(k)] for _ in range(rows)]
    x = _rounded(values, name)
    if sort == "positive":
        x = x.float().abs().to(dtype)
    elif sort == "cancelling":  # pairs that are each other's opposite, and a small rest
        wide = x.float()
        half = k // 2
        wide[:, half : 2 * half] = wide[:, :half].flip(1) * (-1.0 if seed % 2 else 1.0)
        wide[:, ::7] *= 2.0**-9
        x = wide.to(dtype) if name != "tf32" else wide
    elif sort == "zeros":
        keep = torch.tensor([[r.random() < 0.3 for _ in range(k)] for _ in range(rows)])
        x = torch.where(keep, x.float(), -0.0).to(dtype)
        x[0] = 0.0
    elif sort == "denormal":
        tiny = float(torch.finfo(dtype).tiny)
        wide = x.double() * tiny * (1.0 if seed % 2 else 0.1)
        x = wide.float().to(dtype) if name != "tf32" else _rounded(wide.tolist(), name)
    elif sort == "huge":
        top = float(torch.finfo(dtype).max)
        x = (x.double() * top / 3).clamp(-top, top).float().to(dtype)
        if name == "tf32":
            x = (x.view(torch.int32) & ~0x1FFF).view(torch.float32)
    elif sort == "infinite":
        wide = x.float()
        for _ in range(max(1, rows // 2)):
            at = r.randrange(rows), r.randrange(k)
            wide[at] = r.choice([math.inf, -math.inf, math.nan])
        x = wide.to(dtype)
    return x


def pair(m: int, n: int, k: int, name: str, sort: str, seed: int) -> tuple[Tensor, Tensor]:
    """Two operands, [m, k] and [n, k]."""
    a = operand(m, k, name, sort, 2 * seed)
    b = operand(n, k, name, sort, 2 * seed + 1)
    if sort == "denormal" and seed % 2:  # small times large is where it shows
        b = operand(n, k, name, "huge", 2 * seed + 1)
    return a, b
