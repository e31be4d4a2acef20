"""What is drawn from a table, in integers: the same on every machine, to the bit.

A word of 31 bits chooses an entry of the element's bin: the first whose threshold is above it. What
is left of the word, over the entry's share, chooses among an entry's values. The difference is
added to the number in ulps. A coin of 16 bits says whether, for a scale below 1.

T: rows, N: columns of the whole row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

import torch
from torch import Tensor

from hetero_plugin.config.problems import ConfigError
from hetero_plugin.config.profile import LARGEST, Table, nearest_k
from hetero_plugin.errors.base import arithmetic
from hetero_plugin.errors.profile.bins import bins_by_limits, from_ordered, ordered
from hetero_plugin.errors.profile.held import profile_of

__all__ = ["COIN", "WORD", "Drawn", "Replay", "replay_of", "replay_word"]

WORD = 31
"""Bits of the word that chooses an entry."""
COIN = 16
"""Bits of a coin."""
REACH = 6
"""The largest `Drawn.reach`."""
_SPLIT = 32
# What looking up costs the AVX-512 kernel beside one comparison of all elements, as measured: of
# each element, and of each group of columns that has any, which the processor can't foresee.
_LOOK_UP = 120
_BRANCH = 16
_GROUP = 128


@dataclass(frozen=True, eq=False)
class Drawn:
    """A table as the kernels take it.

    Attributes:
        limits: 2**edge in float32, as float.
        starts: of each bin its first entry, and their number at the end.
        thresholds: of each entry, 0 to 2**31: words below it, and not below the one before in its
            bin, mean the entry.
        firsts: of each entry its first value, in ulps.
        factors: of each entry floor(values · 2**32 / words): the word's rest times it, over 2**32,
            is added to the first value.
        fresh: coins below it mean a draw with the noise step: 0 to 2**16.
        largest: bits of the dtype's largest number.
        seen: elements of each bin, by which the kernels choose what to look for first.
    """

    limits: tuple[float, ...]
    starts: tuple[int, ...]
    thresholds: tuple[int, ...]
    firsts: tuple[int, ...]
    factors: tuple[int, ...]
    fresh: int
    largest: int
    seen: tuple[int, ...]

    @classmethod
    def of(cls, table: Table) -> Drawn:
        """The numbers of a table."""
        starts, thresholds, firsts, factors = [0], list[int](), list[int](), list[int]()
        for one in table.bins:
            before = 0
            for (first, last), share in zip(one.ranges, one.cumulative, strict=True):
                upto = math.ceil(share * 2.0**WORD)  # u < share, u = word / 2**31
                words = upto - before
                thresholds.append(upto)
                firsts.append(first)
                factors.append(((last - first + 1) << _SPLIT) // words if words else 0)
                before = upto
            starts.append(len(thresholds))
        limits = torch.tensor([2.0**edge for edge in table.edges], dtype=torch.float64).float()
        return cls(
            tuple(limits.tolist()),
            tuple(starts),
            tuple(thresholds),
            tuple(firsts),
            tuple(factors),
            round(table.fresh * 2**COIN),
            LARGEST[table.dtype],
            tuple(one.n for one in table.bins),
        )

    @cached_property
    def clean(self) -> tuple[tuple[int, int], ...]:
        """Of each bin the words that mean no difference: the first, and how many."""
        found = []
        for start, end in pairwise(self.starts):
            which = [i for i in range(start, end) if self.firsts[i] == 0]
            low, many = 0, 0
            if which and not self._is_range(which[0], start):
                low = self.thresholds[which[0] - 1] if which[0] > start else 0
                many = self.thresholds[which[0]] - low
            found.append((low, many))
        return tuple(found)

    @cached_property
    def quiet(self) -> tuple[int, int, int]:
        """The first bin of elements that are large, and the words that mean no difference in any of
        theirs, the first and how many: of all elements that were seen, the fewest need more."""
        best, least, below = (0, 0, 0), math.inf, 0
        for at in range(len(self.clean)):
            low = max(first for first, _ in self.clean[at:])
            many = max(min(first + n for first, n in self.clean[at:]) - low, 0)
            asked = below + sum(self.seen[at:]) * (1.0 - many * 2.0**-WORD)
            if asked < least:
                best, least = (at, low, many), asked
            below += self.seen[at]
        return best

    @cached_property
    def reach(self) -> int:
        """Differences from -reach to reach are so many of those seen that the native kernel counts
        them for all elements at once, and looks up the others one by one."""
        costs = []
        for reach in range(REACH + 1):
            beyond = sum(n * self._beyond(index, reach) for index, n in enumerate(self.seen)) / max(
                sum(self.seen), 1
            )
            any_of_group = 1.0 - math.exp(-_GROUP * beyond)
            costs.append(2 * reach + _BRANCH * any_of_group + _LOOK_UP * beyond)
        return costs.index(min(costs))

    def _beyond(self, index: int, reach: int) -> float:
        """The share of a bin's words that mean more than ``reach`` ulps."""
        found, before = 0.0, 0
        for entry in range(self.starts[index], self.starts[index + 1]):
            words = self.thresholds[entry] - before
            before = self.thresholds[entry]
            if words:
                first = self.firsts[entry]
                last = first + (self.factors[entry] * (words - 1) >> _SPLIT)
                within = max(min(last, reach) - max(first, -reach) + 1, 0)
                found += words * (1.0 - within / (last - first + 1))
        return found * 2.0**-WORD

    @cached_property
    def steps(self) -> int:
        """How often the entries of a bin are halved until one is left."""
        return (max(end - start for start, end in pairwise(self.starts)) - 1).bit_length()

    @cached_property
    def has_ranges(self) -> bool:
        """Whether an entry has more than one value."""
        return any(
            self._is_range(entry, start)
            for start, end in pairwise(self.starts)
            for entry in range(start, end)
        )

    def _is_range(self, entry: int, start: int) -> bool:
        before = self.thresholds[entry - 1] if entry > start else 0
        words = self.thresholds[entry] - before
        return words > 0 and self.factors[entry] * (words - 1) >> _SPLIT > 0

    def numbers(self, clock: int) -> list[int]:
        """In the order in which kernels/cpu/profile.h reads them, after the clock of what is fixed
        for an address."""
        many = len(self.thresholds)
        head = [clock, self.fresh, self.largest, len(self.limits), many, *self.quiet, self.reach]
        return [*head, *self.starts, *self.thresholds, *self.firsts, *self.factors]

    def differences(self, bins: Tensor, words: Tensor) -> Tensor:
        """The drawn differences in ulps, int64, away from zero.

        Args:
            bins: int64, as `bins_of`.
            words: int64 in [0, 2**31).
        """
        made = torch.zeros_like(words)
        for index, (start, end) in enumerate(pairwise(self.starts)):
            here = bins == index
            word = words[here]
            upto = torch.tensor(self.thresholds[start:end], device=words.device)
            entry = torch.searchsorted(upto, word, right=True)
            before = torch.cat([upto.new_zeros(1), upto])[entry]
            factor = torch.tensor(self.factors[start:end], device=words.device)[entry]
            first = torch.tensor(self.firsts[start:end], device=words.device)[entry]
            made[here] = first + ((word - before) * factor >> _SPLIT)
        return made

    def apply(self, y: Tensor, words: Tensor, coins: Tensor, scale: Tensor) -> Tensor:
        """y with differences.

        Args:
            y: [T, N], whole rows, in the table's dtype.
            words: int64 [T, N] in [0, 2**31).
            coins: int64 [T, N] in [0, 2**16): a difference is made where one is below
                ceil(scale · 2**16).
            scale: float32 [], 0 to 1.

        Returns:
            [T, N] like y; infinities, NaNs and what is not changed keep their bits.
        """
        limits = torch.tensor(self.limits, dtype=torch.float32, device=y.device)
        value = self.differences(bins_by_limits(y, limits), words)
        value = torch.where(coins < torch.ceil(scale * 2.0**COIN), value, 0)
        number = ordered(y)
        moved = torch.where(number < 0, number - value, number + value)
        changed = (value != 0) & y.isfinite()
        return torch.where(changed, from_ordered(moved, y.dtype), y)


@dataclass(frozen=True, eq=False)
class Replay:
    """What is drawn at the sites of one kind and size: a table for each dtype.

    Attributes:
        word: as `replay_word` gives it.
        seed: of the specification; what is fixed for an address is drawn with it and no step.
        tables: dtype -> table.
    """

    word: str
    seed: int
    tables: dict[torch.dtype, Drawn]

    def table(self, dtype: torch.dtype) -> Drawn:
        """The table of a dtype.

        Raises:
            ConfigError: nothing was measured in it.
        """
        if dtype not in self.tables:
            _, digest, kind, k, _ = self.word.split("|")
            raise ConfigError(
                f"error: profile at a {kind} of size {k} in {str(dtype).removeprefix('torch.')}, "
                f"which the profile {digest[:16]} has no table for; it has "
                f"{profile_of(digest).contents}. Load the model in a dtype that was measured, or "
                "leave the site out"
            )
        return self.tables[dtype]


def replay_word(digest: str, kind: str, k: int, seed: int) -> str:
    """The words by which operators know what to draw: digest, kind and size of the site, seed."""
    return f"profile|{digest}|{kind}|{k}|{seed}"


@cache
def replay_of(word: str) -> Replay:
    """What a `replay_word` means.

    Raises:
        ConfigError: its profile was not read in this process.
        ValueError: no such word.
    """
    parts = word.split("|")
    if len(parts) != 5 or parts[0] != "profile":
        raise ValueError(f"{word!r} is no word of a profile: see replay_word")
    _, digest, kind, k, seed = parts
    tables = {}
    for dtype, of in profile_of(digest).of_kind(kind).items():
        if (near := nearest_k(tuple(of), int(k))) is not None:
            tables[getattr(torch, dtype)] = Drawn.of(of[near])
    return Replay(word, int(seed), tables)


@arithmetic("profile")
def _of_an_address(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    raise TypeError(
        "the error model profile needs a site, an address and the tensor's dtype: see "
        "hetero_plugin.errors.profile.Replay"
    )
