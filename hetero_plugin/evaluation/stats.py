"""Statistics of right and wrong answers: intervals, paired tests, equivalence, power.

Every comparison here is *paired*: two systems answer the same questions, and only the
questions on which they disagree carry information. With ``b`` questions that the first has
right and the second wrong, ``c`` the other way round, and ``n`` in all::

                      second right   second wrong
    first right            a              b
    first wrong            c              d          difference = (c - b) / n

One method serves throughout, so that interval and tests can't contradict each other: Tango's
score statistic (Tango 1998, Statistics in Medicine 17:891) gives the interval of the difference
and both one-sided tests of equivalence. McNemar's test is the exact binomial one. A single
proportion has Wilson's score interval (Wilson 1927). Wilson, McNemar and Holm are computed by
statsmodels. Differences are second minus first, as fractions (0.01 is one percentage point).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hetero_plugin.evaluation.power import minimum_detectable_effect, scipy_parts


def _statsmodels(part: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"statsmodels.{part}")
    except ImportError as exc:  # pragma: no cover - depends on the installation
        raise ImportError(
            "the statistics need statsmodels; install it with: pip install 'hetero-plugin[eval]'"
        ) from exc


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}; 0.95 is usual")


@dataclass(frozen=True)
class Proportion:
    """A share of right answers with its Wilson score interval."""

    hits: int
    n: int
    value: float
    low: float
    high: float
    confidence: float
    method: str = "wilson score"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def wilson(hits: int, n: int, confidence: float = 0.95) -> Proportion:
    """Wilson's score interval of ``hits`` right answers among ``n``.

    Raises:
        ValueError: ``n`` is not positive, ``hits`` is not in 0..n, or a bad ``confidence``.
    """
    if n <= 0:
        raise ValueError(f"a proportion needs at least one question, got n={n}")
    if not 0 <= hits <= n:
        raise ValueError(f"hits must lie in 0..{n}, got {hits}")
    _check_confidence(confidence)
    low, high = _statsmodels("stats.proportion").proportion_confint(
        hits, n, alpha=1 - confidence, method="wilson"
    )
    # At 0 and n the bounds are exactly 0 and 1; the formula reaches them only up to rounding.
    low = 0.0 if hits == 0 else max(0.0, float(low))
    high = 1.0 if hits == n else min(1.0, float(high))
    return Proportion(hits, n, hits / n, low, high, confidence)


def accuracy(outcomes: Sequence[bool | int], confidence: float = 0.95) -> Proportion:
    """``wilson`` over a list of right (1) and wrong (0) answers."""
    return wilson(sum(1 for outcome in outcomes if outcome), len(outcomes), confidence)


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests (TOST) that the difference lies within ±margin."""

    margin: float
    alpha: float
    p_lower: float  # of "difference <= -margin"
    p_upper: float  # of "difference >= +margin"
    p: float
    low: float  # the (1 - 2 alpha) score interval, which decides the same question
    high: float
    equivalent: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Paired:
    """Two systems on the same questions. ``difference`` is second minus first."""

    n: int
    both_right: int
    only_first: int  # b
    only_second: int  # c
    both_wrong: int
    difference: float
    low: float
    high: float
    confidence: float
    mcnemar_p: float
    discordance: float  # (b + c) / n: flips, in either direction
    minimum_detectable: float  # at alpha 0.05 two-sided, power 0.8 and this discordance
    method: str = "Tango score interval; exact McNemar test"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def score_z(b: int, c: int, n: int, difference: float) -> float:
    """Tango's score statistic of the hypothesis that (c - b) / n has mean ``difference``.

    Standard normal under the hypothesis; positive when the observed difference is larger.
    """
    # Tango writes the difference as (b - c) / n; d here is that, so the sign is turned back.
    d = -difference
    big_a = 2 * n
    big_b = -b - c + (2 * n - b + c) * d
    big_c = -c * d * (1 - d)
    # The restricted maximum-likelihood estimate of the c cell's probability.
    root = max(big_b * big_b - 4 * big_a * big_c, 0.0)
    q = (math.sqrt(root) - big_b) / (2 * big_a)
    variance = n * (2 * q + d * (1 - d))
    deviation = b - c - n * d
    if variance <= 0.0:
        return 0.0 if deviation == 0 else math.copysign(math.inf, -deviation)
    return -deviation / math.sqrt(variance)


def paired_interval(b: int, c: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Tango's score interval of (c - b) / n.

    Raises:
        ValueError: counts that can't be, or a bad ``confidence``.
    """
    _check_counts(b, c, n)
    _check_confidence(confidence)
    stats, optimize = scipy_parts()
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    observed = (c - b) / n
    edge = 1.0 - 1e-12

    def lower(delta: float) -> float:
        return score_z(b, c, n, delta) - z

    def upper(delta: float) -> float:
        return score_z(b, c, n, delta) + z

    low = -1.0 if lower(-edge) <= 0 else float(optimize.brentq(lower, -edge, observed, xtol=1e-12))
    high = 1.0 if upper(edge) >= 0 else float(optimize.brentq(upper, observed, edge, xtol=1e-12))
    return low, high


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided p of the exact McNemar test: are flips equally likely in both directions?

    Raises:
        ValueError: a negative number of flips.
    """
    if b < 0 or c < 0:
        raise ValueError(f"numbers of flips can't be negative, got b={b}, c={c}")
    if b + c == 0:
        return 1.0
    table = [[0, b], [c, 0]]  # the questions on which both agree don't enter
    result = _statsmodels("stats.contingency_tables").mcnemar(table, exact=True)
    return min(1.0, float(result.pvalue))


def compare(
    first: Sequence[bool | int], second: Sequence[bool | int], confidence: float = 0.95
) -> Paired:
    """Compares two systems' right (1) and wrong (0) answers, question by question.

    Raises:
        ValueError: the lists are empty or of different lengths.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            "paired comparison needs the same questions in both: "
            f"got {len(first)} and {len(second)} answers"
        )
    cells = [[0, 0], [0, 0]]
    for one, two in zip(first, second, strict=True):
        cells[bool(one)][bool(two)] += 1
    b, c, n = cells[1][0], cells[0][1], len(first)
    low, high = paired_interval(b, c, n, confidence)
    return Paired(
        n=n,
        both_right=cells[1][1],
        only_first=b,
        only_second=c,
        both_wrong=cells[0][0],
        difference=(c - b) / n,
        low=low,
        high=high,
        confidence=confidence,
        mcnemar_p=mcnemar_exact(b, c),
        discordance=(b + c) / n,
        minimum_detectable=minimum_detectable_effect(n, (b + c) / n),
    )


def equivalence(paired: Paired, margin: float, alpha: float = 0.05) -> Equivalence:
    """TOST with Tango's score statistic: is the difference within ±``margin``?

    The margin belongs to the question, not to the data: fix it before looking.

    Raises:
        ValueError: ``margin`` is not between 0 and 1 or ``alpha`` not between 0 and 0.5.
    """
    if not 0.0 < margin < 1.0:
        raise ValueError(f"margin must lie between 0 and 1 (0.02 is 2 points), got {margin!r}")
    if not 0.0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 0.5, got {alpha!r}")
    stats, _ = scipy_parts()
    b, c, n = paired.only_first, paired.only_second, paired.n
    p_lower = float(stats.norm.sf(score_z(b, c, n, -margin)))
    p_upper = float(stats.norm.cdf(score_z(b, c, n, margin)))
    p = max(p_lower, p_upper)
    low, high = paired_interval(b, c, n, 1 - 2 * alpha)
    return Equivalence(margin, alpha, p_lower, p_upper, p, low, high, p < alpha)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: family-wise error control over several comparisons."""
    if not p_values:
        return []
    multipletests = _statsmodels("stats.multitest").multipletests
    return [float(p) for p in multipletests(list(p_values), method="holm")[1]]


def _check_counts(b: int, c: int, n: int) -> None:
    if n <= 0 or b < 0 or c < 0 or b + c > n:
        raise ValueError(f"need n > 0, b >= 0, c >= 0 and b + c <= n, got b={b}, c={c}, n={n}")
