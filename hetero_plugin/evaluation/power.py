"""What a number of questions, or of training seeds, can show: before a run, and after one.

Sample sizes are for paired comparison: ``discordance`` is the share of questions on which the two
systems disagree, ``difference`` second minus first, both as fractions of all questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

LEGACY_QUESTIONS = 200
LEGACY_WORDS = ("robust", "moderately robust", "not robust")
_MOST = 10**9  # questions; more is said to be out of reach


def scipy_parts() -> Any:
    """scipy's ``stats`` and ``optimize``, or an ImportError that names the extra."""
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
    stats, optimize = scipy_parts()
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
    stats, _ = scipy_parts()
    za, zb = (float(stats.norm.ppf(q)) for q in (1 - alpha / 2, power))
    spread = za * math.sqrt(discordance) + zb * math.sqrt(discordance - difference**2)
    return math.ceil(spread * spread / difference**2)


def questions_for_equivalence(
    margin: float, discordance: float, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Sample size at which TOST accepts, with ``power``, two systems that are truly equal."""
    if not 0.0 < margin < 1.0 or not 0.0 < discordance <= 1.0:
        raise ValueError(f"need 0 < margin < 1, 0 < discordance <= 1: {margin}, {discordance}")
    stats, _ = scipy_parts()
    z = float(stats.norm.ppf(1 - alpha)) + float(stats.norm.ppf(0.5 + power / 2))
    return math.ceil(z * z * discordance / margin**2)


def power_of_mcnemar(n: int, difference: float, discordance: float, alpha: float = 0.05) -> float:
    """Probability that the exact McNemar test shows a true ``difference``, in either direction.

    Exact: summed over all tables but a billionth of their probability.

    Raises:
        ValueError: not ``|difference| <= discordance <= 1``, or ``n`` under 1.
    """
    return _probability(n, difference, discordance, shown=(True, True), alpha=alpha)


def power_of_equivalence(
    n: int, difference: float, discordance: float, margin: float, alpha: float = 0.05
) -> float:
    """Probability that TOST by Tango's score accepts a true ``difference``; exact, as above.

    Raises:
        ValueError: see ``power_of_mcnemar``.
    """
    return _probability(n, difference, discordance, margin=margin, alpha=alpha)


def questions_to_decide(
    difference: float, discordance: float, margin: float, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Questions with which, were the observed difference the true one, a verdict comes out.

    A verdict is a difference shown by McNemar's test, in its own direction, or equivalence. It
    comes out in four studies of five: by the normal form first, then by exact steps of 1 %.

    Returns:
        The number; None: over a thousand million.

    Raises:
        ValueError: not ``|difference| <= discordance <= 1``.
    """
    _check(1, difference, discordance)
    if discordance == 0.0:
        return None
    n = _normal_start(abs(difference), discordance, margin, alpha, power)
    shown = (difference < 0, difference > 0)
    while n <= _MOST:
        found = _probability(n, difference, discordance, shown=shown, margin=margin, alpha=alpha)
        if found >= power:
            return n
        n = max(n + 1, math.ceil(1.01 * n))
    return None


def _normal_start(size: float, psi: float, margin: float, alpha: float, power: float) -> int:
    """The sample size by normal forms of both tests; a little under the exact one."""
    stats, _ = scipy_parts()
    z_shown, z_equal = float(stats.norm.isf(alpha / 2)), float(stats.norm.isf(alpha))

    def decided(n: int) -> bool:
        spread = math.sqrt(max(psi - size * size, 1e-12) / n)
        shown, equal = z_shown * math.sqrt(psi / n), margin - z_equal * math.sqrt(psi / n)
        cdf = stats.norm.cdf
        far = float(cdf((size - shown) / spread)) if size else 0.0  # in its own direction
        if equal <= 0:
            return far >= power
        near = float(cdf((equal - size) / spread) - cdf((-equal - size) / spread))
        both = float(cdf((equal - size) / spread) - cdf((shown - size) / spread)) if size else 0.0
        return far + near - max(both, 0.0) >= power

    low, high = 1, 2
    while not decided(high) and high <= _MOST:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def _probability(
    n: int,
    difference: float,
    discordance: float,
    *,
    shown: tuple[bool, bool] = (False, False),
    margin: float | None = None,
    alpha: float = 0.05,
) -> float:
    """Probability of the verdicts asked for: a loss and a gain ``shown``, equivalence in a margin.

    Given the number m of flips, each verdict is a range of the number c of gains.
    """
    import numpy as np

    _check(n, difference, discordance)
    stats, _ = scipy_parts()
    if discordance == 0.0:
        equal = margin is not None and _score(np.array([0.0]), np.array([0.0]), n, -margin)
        return float(bool(equal and equal > stats.norm.isf(alpha)))
    up = (discordance + difference) / (2 * discordance)  # of a flip to be wrong -> right
    flips = stats.binom(n, discordance)
    m = np.arange(int(flips.ppf(1e-10)), int(flips.isf(1e-10)) + 1)
    # The largest k with 2 P(X <= k) < alpha, X binomial(m, 1/2): shown at c <= k and c >= m - k.
    k = stats.binom.ppf(alpha / 2, m, 0.5)
    k = np.where(2 * stats.binom.cdf(k, m, 0.5) < alpha, k, k - 1)
    total = np.zeros(len(m))
    if shown[0]:
        total += stats.binom.cdf(k, m, up)
    if shown[1]:
        total += stats.binom.sf(m - k - 1, m, up)
    if margin is not None:
        low, high = _accepted(m, n, margin, float(stats.norm.isf(alpha)))
        if shown[0]:
            low = np.maximum(low, k + 1)  # counted already
        if shown[1]:
            high = np.minimum(high, m - k - 1)
        inside = stats.binom.cdf(high, m, up) - stats.binom.cdf(low - 1, m, up)
        total += np.where(high >= low, inside, 0.0)
    return float((flips.pmf(m) * total).sum())


def _accepted(m: Any, n: int, margin: float, z: float) -> tuple[Any, Any]:
    """For each number of flips, the smallest and largest number of gains that TOST accepts."""
    import numpy as np

    # The score grows with the gains: bisection for the first c with score(-margin) > z.
    below, above = np.full(len(m), -1.0), m + 1.0
    while np.any(above - below > 1):
        middle = np.floor((below + above) / 2)
        good = _score(m - middle, middle, n, -margin) > z
        open_ = above - below > 1
        above, below = np.where(open_ & good, middle, above), np.where(open_ & ~good, middle, below)
    return above, m - above  # the other test is its mirror image


def _score(b: Any, c: Any, n: int, difference: float) -> Any:
    """``stats.score_z`` of arrays (a test holds the two equal)."""
    import numpy as np

    d = -difference
    big_b = -b - c + (2 * n - b + c) * d
    root = np.maximum(big_b * big_b + 8 * n * c * d * (1 - d), 0.0)
    q = (np.sqrt(root) - big_b) / (4 * n)
    variance = n * (2 * q + d * (1 - d))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, (c - b + n * d) / np.sqrt(variance), 0.0)


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


def outlook(
    n: int,
    discordance: float,
    margin: float,
    *,
    losses: Sequence[float],
    seeds: int | None = None,
    seed_sd: float = 0.005,
) -> dict[str, Any]:
    """What ``n`` questions can show, as data: the page of ``hetero-noise power``.

    Args:
        n: questions.
        discordance: share of questions on which the two systems disagree.
        margin: of equivalence.
        losses: true losses to look at; each at most ``discordance``.
        seeds: training runs of each method; None: methods are not compared.
        seed_sd: see ``seeds_detectable``.

    Returns:
        ``detectable``, ``for_equivalence``, ``seeds`` and ``losses``: of each ``degraded`` and
        ``equivalent`` (probabilities of these verdicts), ``to_decide``, and ``legacy`` (rates).
        What no number of questions shows is None.

    Raises:
        ValueError: a loss that is negative or over ``discordance``.
    """
    rows = []
    for loss in losses:
        if not 0 <= loss <= discordance:
            raise ValueError(
                f"a loss of {loss:g} can't be, with {discordance:g} of answers flipped"
            )
        rows.append(
            {
                "loss": loss,
                # Of equal systems half of what is shown by chance is a loss.
                "degraded": power_of_mcnemar(n, -loss, discordance) * (1.0 if loss else 0.5),
                "equivalent": power_of_equivalence(n, -loss, discordance, margin),
                "to_decide": questions_to_decide(-loss, discordance, margin),
                "legacy": legacy_rates(-loss, discordance),
            }
        )
    seen = minimum_detectable_effect(n, discordance)
    return {
        "n": n,
        "discordance": discordance,
        "margin": margin,
        "detectable": seen if math.isfinite(seen) else None,
        "for_equivalence": questions_for_equivalence(margin, discordance),
        "losses": rows,
        "seeds": None
        if seeds is None
        else {
            "seeds": seeds,
            "seed_sd": seed_sd,
            "detectable": seeds_detectable(seeds, seed_sd, n, discordance),
        },
    }


@dataclass(frozen=True)
class Legacy:
    """The old rule: 200 questions, and the observed difference alone."""

    n: int
    difference: float
    word: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def legacy(first: Sequence[int], second: Sequence[int]) -> Legacy:
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
    stats, _ = scipy_parts()
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
