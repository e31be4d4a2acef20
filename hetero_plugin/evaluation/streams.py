"""The generator as a stream of bytes: every order in which keys are walked is a stream to test.

A generator that is good along columns may be bad along rows. Each order here walks one part of the
address quickest, the others slowly, and writes the words as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hetero_plugin import kernels, random

_CHUNK = 1 << 16  # addresses at a time
KERNEL = kernels.KERNEL  # importing the folder registers the operator
Words = Tensor  # int32, or uint8/int16 for the orders that give fewer bits an address


def _range(start: int, count: int) -> Tensor:
    return torch.arange(start, start + count, dtype=torch.int64)


def _full(like: Tensor, value: int) -> Tensor:
    return torch.full_like(like, value)


def _stream(
    clock: Tensor, site: Tensor, row: Tensor, start: int, columns: int, kind: int
) -> Tensor:
    return torch.ops.hetero_noise.stream(clock, site, row, start, columns, kind)


def clock_of_step(seed: int, step: Tensor) -> Tensor:
    """`random.clock_key` of many steps."""
    return random.mix64_tensor((step * 2 + 1) ^ random.seed_base(seed))


def clock_of_seed(seed: Tensor, step: int) -> Tensor:
    """`random.clock_key` of many seeds."""
    base = random.mix64_tensor(seed + random.signed(0x9E3779B97F4A7C15))
    return random.mix64_tensor(base ^ (step * 2 + 1))


def _site(
    layer: int = 0, leaf: str = "self_attn.q_proj", stream: str = "output", rule: int = 0
) -> int:
    return random.site_key(f"model.layers.{layer}.{leaf}", stream, rule)


def _columns(seed: int, kind: int) -> Iterator[Words]:
    row = 0
    while True:  # 2**20 columns of a row, then the next row
        keys = _range(row, 1)
        for start in range(0, 1 << 20, _CHUNK):
            yield _stream(
                _full(keys, random.clock_key(seed, 0)),
                _full(keys, _site()),
                keys,
                start,
                _CHUNK,
                kind,
            )
        row += 1


def _walk(seed: int, keys: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]) -> Iterator[Words]:
    """One column of _CHUNK consecutive addresses, then the next _CHUNK."""
    start = 0
    while True:
        clock, site, row = keys(_range(start, _CHUNK))
        yield _stream(clock, site, row, 0, 1, 0)
        start += _CHUNK


def _interleave(seed: int, sites: list[int]) -> Iterator[Words]:
    """The same address at every site in turn: word i comes from site i mod n."""
    site = torch.tensor(sites, dtype=torch.int64)
    clock = _full(site, random.clock_key(seed, 0))
    columns = max(128, _CHUNK // len(sites) // 128 * 128)
    row = 0
    while True:
        yield _stream(clock, site, _full(site, row), 0, columns, 0).T.contiguous()
        row += 1


def _tiles(seed: int) -> Iterator[Words]:
    """What a layer really draws: 64 tokens by 1,024 features, then the next 64 tokens."""
    start = 0
    while True:
        position = _range(start, 64)
        row = random.row_keys((position * 7919) % 151_936, position)
        yield _stream(_full(row, random.clock_key(seed, 0)), _full(row, _site()), row, 0, 1024, 0)
        start += 64


def _bits_of_normal(seed: int) -> Iterator[Words]:
    """Φ(z) of the normals as 16-bit words: uniform if the normals are normal."""
    row = 0
    while True:
        keys = _range(row, 1)
        z = _stream(
            _full(keys, random.clock_key(seed, 0)), _full(keys, _site()), keys, 0, _CHUNK, 2
        )
        yield (
            (torch.special.ndtr(z.double()) * 65536.0)
            .to(torch.int32)
            .clamp_(0, 65535)
            .to(torch.uint16)
        )
        row += 1


def _rounding(seed: int) -> Iterator[Words]:
    for words in _columns(seed, 1):
        yield words.to(torch.uint16)


ORDERS: dict[str, tuple[Callable[[int], Iterator[Words]], str]] = {
    "columns": (lambda s: _columns(s, 0), "features of one token, then the next token"),
    "rows": (
        lambda s: _walk(
            s, lambda i: (_full(i, random.clock_key(s, 0)), _full(i, _site()), i << 32)
        ),
        "positions 0, 1, 2, … of one token id, one feature",
    ),
    "tokens": (
        lambda s: _walk(s, lambda i: (_full(i, random.clock_key(s, 0)), _full(i, _site()), i)),
        "token ids 0, 1, 2, … at one position, one feature",
    ),
    "steps": (
        lambda s: _walk(s, lambda i: (clock_of_step(s, i), _full(i, _site()), _full(i, 7))),
        "training steps 0, 1, 2, …, all else equal",
    ),
    "seeds": (
        lambda s: _walk(s, lambda i: (clock_of_seed(i + s, 0), _full(i, _site()), _full(i, 7))),
        "seeds N, N+1, N+2, …, all else equal",
    ),
    "sites": (
        lambda s: _interleave(s, [_site(layer=n) for n in range(512)]),
        "the same address at 512 layers in turn",
    ),
    "directions": (
        lambda s: _interleave(
            s,
            [
                _site(stream=name)
                for name in ("output", "input", "weight", "grad_input", "grad_weight")
            ],
        ),
        "the same address in the five streams in turn",
    ),
    "rules": (
        lambda s: _interleave(s, [_site(rule=n) for n in range(4)]),
        "the same address under four rules in turn",
    ),
    "tiles": (_tiles, "64 tokens by 1,024 features, as a layer draws them"),
    "rounding": (_rounding, "the 16-bit words of stochastic rounding, along features"),
    "bits-of-normal": (_bits_of_normal, "Φ(z) of the normals, 16 bits each"),
}


def stream_bytes(order: str, seed: int, count: int | None) -> Iterator[bytes]:
    """The bytes of an order, little endian, in pieces.

    Args:
        order: a name in `ORDERS`.
        seed: the spec's seed.
        count: how many bytes; None: for ever.

    Raises:
        ValueError: no such order.
    """
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; it must be one of {', '.join(ORDERS)}")
    left = count
    for words in ORDERS[order][0](seed):
        piece = words.contiguous().numpy().tobytes()
        if left is not None:
            piece = piece[:left]
            left -= len(piece)
        yield piece
        if left == 0:
            return
