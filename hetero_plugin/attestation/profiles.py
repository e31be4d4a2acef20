"""What can be checked of an error that was drawn from a measured profile.

A knock-in shows that a site reaches the output, not that what it has is the profile's: a table of
another kind or size changes the output as well. Of a tensor before and after, three sums are
compared with what the table makes of the very tensor: elements that changed, ulps away from zero
(the bias) and ulps squared. A sum of independent draws lies within five of its standard deviations
(once in two million it does not); two per cent are added, for what is cut off at the largest finite
number. Of tensors so small that nothing is expected in them, nothing can be said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from hetero_plugin.attestation.formats import Checks
from hetero_plugin.config import NoiseRule
from hetero_plugin.config.error_models import REGISTRY
from hetero_plugin.errors.profile import Drawn, ordered, replay_of
from hetero_plugin.errors.profile.bins import bins_by_limits

__all__ = ["ProfileLook", "profile_rule"]

SIGMAS = 5.0
SLACK = 0.02
_NAMED = 8
CHANGED, BIAS, SIZE = (
    "profiles: elements changed are as many as the table says",
    "profiles: the bias is the table's",
    "profiles: differences are as large as the table's",
)


def profile_rule(rules: Sequence[NoiseRule]) -> NoiseRule | None:
    """The rule of a profile that alone is on the output of a site, if one is.

    Args:
        rules: those of the site that apply now.
    """
    here = [rule for rule in rules if rule.point == "output" and rule.direction != "backward"]
    if len(here) != 1 or not REGISTRY[here[0].error].measured or not here[0].scale > 0:
        return None
    return here[0]


def _power_sum(first: int, last: int, power: int) -> float:
    """Sum of i**power for first to last; power 1, 2 or 4."""

    def upto(n: int) -> int:
        if power == 1:
            return n * (n + 1) // 2
        if power == 2:
            return n * (n + 1) * (2 * n + 1) // 6
        return n * (n + 1) * (2 * n + 1) * (3 * n * n + 3 * n - 1) // 30

    return float(upto(last) - upto(first - 1))


def _moments(table: Drawn) -> Tensor:
    """float64 [bins, 4]: of each bin P(changed), and the mean of d, d squared, d to the fourth."""
    rows = []
    for index, (start, end) in enumerate(pairwise(table.starts)):
        row = [1.0 - table.clean[index][1] * 2.0**-31, 0.0, 0.0, 0.0]
        before = 0
        for entry in range(start, end):
            words = table.thresholds[entry] - before
            before = table.thresholds[entry]
            if not words:
                continue
            first = table.firsts[entry]
            last = first + (table.factors[entry] * (words - 1) >> 32)
            share = words * 2.0**-31 / (last - first + 1)
            for column, power in ((1, 1), (2, 2), (3, 4)):
                row[column] += share * _power_sum(first, last, power)
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@dataclass
class ProfileLook:
    """Looks at tensors before and after a profile's error, and collects what is wrong.

    Attributes:
        asked: sites that should be looked at.
        seen: those that were.
        failed: check -> what is wrong, in sentences.
    """

    asked: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    failed: dict[str, list[str]] = field(
        default_factory=lambda: {name: [] for name in (CHANGED, BIAS, SIZE)}
    )
    changed: int = 0
    """Elements that changed, in all."""
    of: int = 0

    def add(self, where: str, word: str, scale: float, before: Tensor, after: Tensor) -> None:
        """Looks at one tensor.

        Args:
            where: the site.
            word: a `replay_word`.
            scale: 0 to 1.
            before, after: [..., N], whole rows, of one dtype.

        Raises:
            ConfigError: the profile has no table for the dtype.
        """
        self.seen.add(where)
        table = replay_of(word).table(before.dtype)
        x = before.detach().reshape(-1, before.shape[-1])
        y = after.detach().reshape(-1, before.shape[-1])
        finite = x.isfinite()
        a = ordered(x)
        d = ((ordered(y) - a) * torch.where(a < 0, -1, 1))[finite].double()
        limits = torch.tensor(table.limits, dtype=torch.float32, device=x.device)
        counts = bins_by_limits(x, limits)[finite].bincount(minlength=len(table.clean)).double()
        expected = scale * (counts.cpu()[:, None] * _moments(table)).sum(dim=0)
        p, first, second, fourth = expected.tolist()
        self.changed += int((d != 0).sum())
        self.of += d.numel()
        sums = (
            (CHANGED, float((d != 0).sum()), p, p),
            (BIAS, float(d.sum()), first, second),
            (SIZE, float(d.square().sum()), second, fourth),
        )
        for name, found, mean, variance in sums:
            # Of the bias two per cent of the size, whose sign is not settled.
            slack = SLACK * (abs(mean) if name != BIAS else math.sqrt(max(p * second, 0.0)))
            if not abs(found - mean) <= SIGMAS * math.sqrt(variance) + slack:
                self.failed[name].append(
                    f"{where}: {found:.6g} of {d.numel()}, and {mean:.6g} ± "
                    f"{math.sqrt(variance):.3g} expected"
                )

    def checks(self) -> Checks:
        """(name, passed, detail) of each check; none where no profile was asked for."""
        if not self.asked and not self.seen:
            return []
        unseen = sorted(self.asked - self.seen)
        told = f"did not run: {'; '.join(unseen[:_NAMED])}" if unseen else f"all {len(self.seen)}"
        share = f"{self.changed} of {self.of} elements changed, at {len(self.seen)} sites"
        return [("profiles: each was looked at", not unseen, told)] + [
            (name, not wrong, "; ".join(wrong[:_NAMED]) if wrong else share)
            for name, wrong in self.failed.items()
        ]
