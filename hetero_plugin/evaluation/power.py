"""What a number of questions, or of training seeds, can show: before a run, and after one.

Sample sizes are for paired comparison: ``discordance`` is the share of questions on which the two
systems disagree, ``difference`` second minus first, both as fractions of all questions.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

LEGACY_QUESTIONS = 200
LEGACY_WORDS = ("robust", "moderately robust", "not robust")
_MOST = 10**9  # questions; more is said to be out of reach


def _scipy() -> Any:
    try:
        from scipy import optimize, stats
    except ImportError as exc:  # pragma: no cover - depends on the installation
        raise ImportError(
            "the statistics need scipy; install it with: pip install 'hetero-plugin[eval]'"
        ) from exc
    return stats, optimize


def minimum_detectable_effect(
    n: int, discordance: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest paired difference that ``n`` questions show with the given power.

    Connor's (1987) sample-size formula for McNemar's test, solved for the difference;
    ``discordance`` is the share of questions on which the two systems disagree. No difference
    can exceed the discordance: where even that would not be seen, the answer is infinity.
    """
    if n <= 0 or not 0.0 <= discordance <= 1.0:
        raise ValueError(f"need n > 0 and discordance in 0..1, got n={n}, {discordance}")
    stats, optimize = _scipy()
    za, zb = (float(stats.norm.ppf(q)) for q in (1 - alpha / 2, power))

    def excess(delta: float) -> float:
        spread = za * math.sqrt(discordance) + zb * math.sqrt(discordance - delta * delta)
        return delta * math.sqrt(n) - spread

    top = min(discordance, math.sqrt(discordance))
    if discordance == 0.0 or excess(top) < 0:
        return math.inf
    return float(optimize.brentq(excess, 0.0, top, xtol=1e-12))


def questions_needed(
    difference: float, discordance: float, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Connor's sample size of McNemar's test for a paired ``difference``."""
    if not 0.0 < abs(difference) <= discordance <= 1.0:
        raise ValueError(
            f"need 0 < |difference| <= discordance <= 1, got {difference}, {discordance}"
        )
    stats, _ = _scipy()
    za, zb = (float(stats.norm.ppf(q)) for q in (1 - alpha / 2, power))
    spread = za * math.sqrt(discordance) + zb * math.sqrt(discordance - difference**2)
    return math.ceil(spread * spread / difference**2)


def questions_for_equivalence(
    margin: float, discordance: float, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Sample size at which TOST accepts, with ``power``, two systems that are truly equal."""
    if not 0.0 < margin < 1.0 or not 0.0 < discordance <= 1.0:
        raise ValueError(f"need 0 < margin < 1, 0 < discordance <= 1: {margin}, {discordance}")
    stats, _ = _scipy()
    z = float(stats.norm.ppf(1 - alpha)) + float(stats.norm.ppf(0.5 + power / 2))
    return math.ceil(z * z * discordance / margin**2)


def power_of_mcnemar(n: int, difference: float, discordance: float, alpha: float = 0.05) -> float:
    """Probability that the exact McNemar test shows a true ``difference``, exactly.

    The number of flips is binomial, and given it the number in one direction too; both are summed
    over all but a billionth of their probability.

    Raises:
        ValueError: not ``|difference| <= discordance <= 1``, or ``n`` under 1.
    """
    _check(n, difference, discordance)
    stats, _ = _scipy()
    if discordance == 0.0:
        return 0.0
    up = (discordance + difference) / (2 * discordance)  # of a flip to be wrong -> right
    flips = stats.binom(n, discordance)
    total = 0.0
    for m in range(int(flips.ppf(1e-10)), int(flips.isf(1e-10)) + 1):
        # The largest k with 2 P(X <= k) < alpha, X binomial(m, 1/2): reject at <= k and >= m - k.
        k = int(stats.binom.ppf(alpha / 2, m, 0.5))
        while k >= 0 and 2 * stats.binom.cdf(k, m, 0.5) >= alpha:
            k -= 1
        if k >= 0:
            rejected = stats.binom.cdf(k, m, up) + stats.binom.sf(m - k - 1, m, up)
            total += float(flips.pmf(m)) * float(rejected)
    return total


def power_of_equivalence(
    n: int, difference: float, discordance: float, margin: float, alpha: float = 0.05
) -> float:
    """Probability that TOST accepts a true ``difference`` within ±``margin`` (normal form)."""
    _check(n, difference, discordance)
    stats, _ = _scipy()
    spread = math.sqrt(max(discordance - difference**2, 0.0) / n)
    if spread == 0.0:
        return float(abs(difference) < margin)
    z = float(stats.norm.isf(alpha))
    inside = margin / spread - z
    if inside <= 0:
        return 0.0
    shift = difference / spread
    return float(stats.norm.cdf(inside - shift) - stats.norm.cdf(-inside - shift))


def questions_to_decide(
    difference: float, discordance: float, margin: float, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Questions with which, were the observed difference the true one, a verdict comes out.

    A verdict is a difference shown by McNemar's test, in its own direction, or equivalence; normal
    forms of both. Four verdicts in five are asked for.

    Returns:
        The number; None: over a thousand million.
    """
    _check(1, difference, discordance)
    stats, _ = _scipy()
    if discordance == 0.0:
        return None
    z_shown, z_equal = float(stats.norm.isf(alpha / 2)), float(stats.norm.isf(alpha))

    def decided(n: int) -> bool:
        spread = math.sqrt(max(discordance - difference**2, 1e-12) / n)
        shown = z_shown * math.sqrt(discordance / n)
        equal = margin - z_equal * math.sqrt(discordance / n)
        cdf, size = stats.norm.cdf, abs(difference)
        far = stats.norm.sf((shown - size) / spread) if size else 0.0  # in its own direction
        if equal <= 0:
            return bool(far >= power)
        near = cdf((equal - size) / spread) - cdf((-equal - size) / spread)
        both = cdf((equal - size) / spread) - cdf((shown - size) / spread) if size else 0.0
        return bool(far + near - max(both, 0.0) >= power)

    low, high = 1, 2
    while not decided(high):
        low, high = high, high * 2
        if high > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def seeds_detectable(
    seeds: int, seed_sd: float, n: int, discordance: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The difference of two methods that ``seeds`` training runs of each show (t test).

    Args:
        seeds: training runs of each method; 2 or more.
        seed_sd: standard deviation of the true accuracy over training seeds, as a fraction.
        n: questions of each evaluation, the same for all.
        discordance: of two checkpoints; what of it is not due to the questions' difficulty.

    Raises:
        ValueError: fewer than 2 seeds, which show no variance, or a negative ``seed_sd``.
    """
    if seeds < 2 or seed_sd < 0:
        raise ValueError(f"need seeds >= 2 and seed_sd >= 0, got {seeds} and {seed_sd}")
    try:
        from statsmodels.stats.power import TTestIndPower
    except ImportError as exc:  # pragma: no cover - depends on the installation
        raise ImportError(
            "the power of a t test needs statsmodels; "
            "install it with: pip install 'hetero-plugin[eval]'"
        ) from exc
    # Two checkpoints of equal accuracy differ by chance with variance discordance / n: half each.
    sd = math.sqrt(seed_sd**2 + discordance / (2 * n))
    effect = TTestIndPower().solve_power(
        nobs1=seeds, alpha=alpha, power=power, ratio=1.0, alternative="two-sided"
    )
    return float(effect) * sd


@dataclass(frozen=True)
class Legacy:
    """The old rule: 200 questions, and the observed difference alone."""

    n: int
    difference: float
    word: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def legacy(first: list[int], second: list[int]) -> Legacy:
    """The old rule's word on the first 200 questions: under 1, 1 to 3, over 3 points."""
    n = min(LEGACY_QUESTIONS, len(first))
    difference = (sum(second[:n]) - sum(first[:n])) / n
    return Legacy(n, difference, LEGACY_WORDS[_class(abs(difference))])


def legacy_rates(
    difference: float, discordance: float, n: int = LEGACY_QUESTIONS
) -> dict[str, float]:
    """How often the old rule says each of its words of a true ``difference``, exactly.

    Raises:
        ValueError: see ``power_of_mcnemar``.
    """
    _check(n, difference, discordance)
    stats, _ = _scipy()
    rates = dict.fromkeys(LEGACY_WORDS, 0.0)
    if discordance == 0.0:
        return {**rates, "robust": 1.0}
    up = (discordance + difference) / (2 * discordance)
    for m in range(n + 1):
        weight = float(stats.binom.pmf(m, n, discordance))
        if weight < 1e-13:
            continue
        for c, p in enumerate(stats.binom.pmf(range(m + 1), m, up)):
            rates[LEGACY_WORDS[_class(abs(2 * c - m) / n)]] += weight * float(p)
    return rates


def _class(size: float) -> int:
    """0, 1 or 2: under 1 point, up to 3, over 3; counts of 200 questions are exact halves."""
    return 0 if size < 0.01 - 1e-12 else 1 if size <= 0.03 + 1e-12 else 2


def _check(n: int, difference: float, discordance: float) -> None:
    if n < 1 or not abs(difference) <= discordance <= 1.0:
        raise ValueError(
            f"need n >= 1 and |difference| <= discordance <= 1, got n={n}, {difference}, "
            f"{discordance}"
        )
