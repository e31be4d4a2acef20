"""Profiles that were made up, for tests of several rooms."""

from __future__ import annotations

import random
from pathlib import Path

from hetero_plugin.errors.profile import Bin, Profile, Table

DTYPES = ("bfloat16", "float16", "float32")
KINDS = ("linear", "lm_head", "norm", "activation", "attention")


def wild(fresh: float = 0.0, ranges: bool = True, seed: int = 1) -> Profile:
    """Most elements change, each bin in its own way: what bits are compared on."""
    draw = random.Random(seed)

    def one() -> Bin:
        values: list[int | tuple[int, int]] = sorted(draw.sample(range(-12, 13), 7))
        if ranges:
            values = [(-90, -40), (-39, -17), *values, (20, 31), (32, 900)]
        shares = sorted(draw.random() for _ in values[1:])
        return Bin(values=tuple(values), cumulative=(*shares, 1.0), n=draw.randrange(100))

    return Profile(
        name="wild",
        tables=tuple(
            Table(
                kind="linear",
                dtype=dtype,
                ks=(64, 4864),
                bins=tuple(one() for _ in range(30)),
                fresh=fresh,
                n=1,
            )
            for dtype in DTYPES
        ),
    )


def mild(changed: float = 0.02, fresh: float = 0.0, kinds: tuple[str, ...] = KINDS) -> Profile:
    """Few elements change, small ones more often, mostly by one ulp."""

    def one(index: int) -> Bin:
        share = max(changed, 0.6 * 2.0 ** (-index / 3)) / 2
        below = (0.02 * share, 0.1 * share, 0.3 * share, share)
        return Bin(
            values=(-9, -3, -2, -1, 0, 1, 2, 3, (4, 30)),
            cumulative=(*below, *(1 - one for one in reversed(below)), 1.0),
            n=max(1, int(1000 * 2 ** (index / 4))),
        )

    return Profile(
        name="mild",
        tables=tuple(
            Table(
                kind=kind,
                dtype=dtype,
                ks=(16, 8192),
                bins=tuple(one(index) for index in range(30)),
                fresh=fresh,
                n=1,
            )
            for kind in kinds
            for dtype in DTYPES
        ),
    )


def written(profile: Profile, folder: Path, name: str = "ab") -> str:
    """Writes a profile: its path."""
    path = folder / f"{name}.profile"
    profile.write(path)
    return str(path)
