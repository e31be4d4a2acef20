"""Statistics against published values, independent formulas and simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from hetero_plugin.evaluation import power, stats

statsmodels_proportion = pytest.importorskip("statsmodels.stats.proportion")
statsmodels_tables = pytest.importorskip("statsmodels.stats.contingency_tables")


@pytest.mark.parametrize(("hits", "n"), [(0, 40), (1, 40), (155, 200), (1014, 1319), (40, 40)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_equals_statsmodels(hits: int, n: int, confidence: float) -> None:
    ours = stats.wilson(hits, n, confidence)
    low, high = statsmodels_proportion.proportion_confint(
        hits, n, alpha=1 - confidence, method="wilson"
    )
    assert ours.value == hits / n
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-12)
    assert ours.low <= ours.value <= ours.high


def test_wilson_of_the_published_example() -> None:
    # Newcombe (1998), Statistics in Medicine 17:857, table I: 81 of 263.
    got = stats.wilson(81, 263)
    assert (round(got.low, 4), round(got.high, 4)) == (0.2553, 0.3662)


def test_tango_of_the_published_example() -> None:
    # Airway reactivity (Fagerland, Lydersen, Laake 2014): a=1, b=1, c=7, d=12; the paper's
    # difference is first minus second, ours second minus first.
    low, high = stats.paired_interval(b=1, c=7, n=21)
    assert (round(low, 3), round(high, 3)) == (0.026, 0.517)


def test_tango_without_flips_has_its_closed_form() -> None:
    z = scipy_stats.norm.ppf(0.975) ** 2
    low, high = stats.paired_interval(0, 0, 44)
    assert (low, high) == pytest.approx((-z / (44 + z), z / (44 + z)), abs=1e-9)


@pytest.mark.parametrize(
    ("b", "c", "n"), [(9, 12, 200), (40, 20, 160), (1, 7, 21), (3, 90, 1319), (60, 58, 1024)]
)
def test_tango_equals_the_non_iterative_quartic(b: int, c: int, n: int) -> None:
    """Yang, Sun and Hardin (2013): the limits are roots of a polynomial of degree four."""
    g = scipy_stats.norm.ppf(0.975) ** 2
    d = c - b
    coefficients = [
        n**2 * (n / g + 1) ** 2,
        -n * d * (n / g + 1) * (4 * n / g + 1),
        2 * n * d**2 * (3 * n / g + 2) / g - n**2 * ((b + c) / g + 1),
        n * d * (2 * (b + c) / g + 1) - d**3 * (4 * n / g + 1) / g,
        d**2 * (d**2 / g - (b + c)) / g,
    ]
    roots = [r.real for r in np.roots(coefficients) if abs(r.imag) < 1e-9]
    for bound in stats.paired_interval(b, c, n):
        assert min(abs(bound - root) for root in roots) < 1e-8


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 9), (5, 15), (30, 30), (12, 40)])
def test_mcnemar_equals_statsmodels(b: int, c: int) -> None:
    expected = statsmodels_tables.mcnemar([[50, b], [c, 50]], exact=True).pvalue if b + c else 1.0
    assert stats.mcnemar_exact(b, c) == pytest.approx(min(1.0, expected), abs=1e-12)
    assert stats.mcnemar_exact(b, c) == stats.mcnemar_exact(c, b)


def test_compare_counts_every_cell() -> None:
    first = [1, 1, 1, 0, 0, 1, 0, 0]
    second = [1, 0, 1, 1, 1, 1, 1, 0]
    got = stats.compare(first, second)
    assert (got.both_right, got.only_first, got.only_second, got.both_wrong) == (3, 1, 3, 1)
    assert got.difference == pytest.approx(sum(second) / 8 - sum(first) / 8)
    assert got.discordance == 0.5
    assert got.low < got.difference < got.high


def test_compare_is_antisymmetric() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random(300) < 0.7, rng.random(300) < 0.6
    there = stats.compare(first.tolist(), second.tolist())
    back = stats.compare(second.tolist(), first.tolist())
    assert there.difference == -back.difference
    assert there.low == pytest.approx(-back.high, abs=1e-9)
    assert there.mcnemar_p == back.mcnemar_p


def test_power_reproduces_the_published_numbers() -> None:
    # Sizes by Connor (1987), alpha 0.05, power 0.8, worked out by hand for these discordances.
    assert power.minimum_detectable_effect(200, 0.10) == pytest.approx(0.063, abs=1e-3)
    assert power.minimum_detectable_effect(1319, 0.10) == pytest.approx(0.024, abs=5e-4)
    assert power.minimum_detectable_effect(1319, 0.20) == pytest.approx(0.035, abs=1e-3)
    assert power.questions_needed(0.01, 0.10) == 7847
    assert power.questions_for_equivalence(0.01, 0.10) == pytest.approx(8564, abs=2)
    assert power.minimum_detectable_effect(7847, 0.10) == pytest.approx(0.01, abs=1e-5)
    assert math.isinf(power.minimum_detectable_effect(5, 0.1))


def test_holm_is_the_step_down_adjustment() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]


def test_tost_and_its_interval_decide_the_same() -> None:
    for b, c, n in [(10, 12, 2000), (40, 45, 1024), (5, 60, 1024), (0, 0, 100)]:
        first = [1] * b + [0] * c + [1] * (n - b - c)
        second = [0] * b + [1] * c + [1] * (n - b - c)
        got = stats.equivalence(stats.compare(first, second), margin=0.02)
        assert got.equivalent == (got.low > -0.02 and got.high < 0.02)


def _simulate(
    rng: np.random.Generator, runs: int, n: int, p10: float, p01: float
) -> list[tuple[int, int]]:
    draws = rng.multinomial(n, [p10, p01, 1 - p10 - p01], size=runs)
    return [(int(b), int(c)) for b, c, _ in draws]


@pytest.mark.parametrize(
    ("n", "p10", "p01"), [(1024, 0.05, 0.05), (1024, 0.12, 0.04), (200, 0.06, 0.02)]
)
def test_interval_covers_at_its_stated_rate(n: int, p10: float, p01: float) -> None:
    """2,000 simulated studies a case, seed fixed.

    At a true coverage of 95 %, the count has a standard error of 0.49 points; the band of
    ±2 points is four of those, so that another seed would raise a false alarm in fewer than one
    of 10,000 runs. A 90 % or a 99 % interval fails it.
    """
    rng = np.random.default_rng(11)
    truth = p01 - p10
    cache: dict[tuple[int, int], bool] = {}
    covered = 0
    for b, c in _simulate(rng, 2000, n, p10, p01):
        if (b, c) not in cache:
            low, high = stats.paired_interval(b, c, n)
            cache[b, c] = low <= truth <= high
        covered += cache[b, c]
    assert 0.93 <= covered / 2000 <= 0.97


def test_mcnemar_false_alarms_stay_under_their_level() -> None:
    """Equal systems, 4,000 studies: the exact test rejects at most 5 % (it is conservative)."""
    rng = np.random.default_rng(5)
    pairs = _simulate(rng, 4000, 1024, 0.05, 0.05)
    rejected = sum(stats.mcnemar_exact(b, c) < 0.05 for b, c in pairs) / len(pairs)
    assert 0.02 <= rejected <= 0.05


def test_tost_rarely_accepts_a_system_at_the_margin() -> None:
    """A true loss of exactly the margin is called equivalent in about alpha of the studies.

    Standard error 0.49 points at 2,000 studies; the bound of 7 % is four of those above 5 %.
    """
    rng = np.random.default_rng(7)
    n, margin = 1024, 0.02
    accepted = 0
    for b, c in _simulate(rng, 2000, n, 0.06, 0.04):
        first = [1] * b + [0] * c + [1] * (n - b - c)
        second = [0] * b + [1] * c + [1] * (n - b - c)
        z_low = stats.score_z(b, c, n, -margin)
        z_high = stats.score_z(b, c, n, margin)
        inside = z_low > 1.6449 and z_high < -1.6449
        accepted += inside
        if accepted == 1 and inside:  # the shortcut above is what equivalence() computes
            assert stats.equivalence(stats.compare(first, second), margin).equivalent
    assert accepted / 2000 <= 0.07
    # With that few questions, equal systems are recognised only sometimes; with enough, mostly.
    enough = power.questions_for_equivalence(margin, 0.10)
    found = sum(
        stats.score_z(b, c, enough, -margin) > 1.6449
        and stats.score_z(b, c, enough, margin) < -1.6449
        for b, c in _simulate(rng, 2000, enough, 0.05, 0.05)
    )
    assert found / 2000 == pytest.approx(0.80, abs=0.04)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.wilson(3, 0), "at least one question"),
        (lambda: stats.wilson(5, 4), "0..4"),
        (lambda: stats.wilson(1, 4, 1.5), "confidence"),
        (lambda: stats.compare([1, 0], [1]), "same questions"),
        (lambda: stats.paired_interval(5, 5, 8), "b \\+ c <= n"),
        (lambda: power.questions_needed(0.2, 0.1), "discordance"),
        (
            lambda: stats.equivalence(stats.compare([1, 0], [1, 1]), margin=2.0),
            "margin must lie between",
        ),
    ],
)
def test_bad_input_is_refused_in_words(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
