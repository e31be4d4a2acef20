"""The interval over questions, seeds and draws: against simulated designs and plain formulas. 10 s.

Coverage is of 2,000 designs a setting: the bound below is four standard errors under 95 %, a false
alarm in some 30,000 such tests if it is right; that it is not much too wide is bounded too.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hetero_plugin.evaluation.variance import crossed, stacked, word

DESIGNS = 2000


def _design(
    rng: np.random.Generator, size: tuple[int, int, int], sd: dict[str, float]
) -> np.ndarray:
    seeds, draws, questions = size
    return (
        sd["seed"] * rng.standard_normal((seeds, 1, 1))
        + sd["draw"] * rng.standard_normal((seeds, draws, 1))
        + sd["question"] * rng.standard_normal((1, 1, questions))
        + sd["rest"] * rng.standard_normal((seeds, draws, questions))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "draw"), [(0.0, 0.0), (0.005, 0.0), (0.01, 0.01), (0.02, 0.01), (0.05, 0.01)]
)
@pytest.mark.parametrize("size", [(3, 4, 60), (5, 2, 60)])
def test_the_interval_covers_the_mean(size: tuple[int, int, int], seed: float, draw: float) -> None:
    rng = np.random.default_rng(7)
    sd = {"seed": seed, "draw": draw, "question": 0.3, "rest": 0.3}
    covered = 0
    for _ in range(DESIGNS):
        found = crossed(_design(rng, size, sd))
        covered += found.low <= 0.0 <= found.high
    slack = 4 * math.sqrt(0.95 * 0.05 / DESIGNS)
    assert 0.95 - slack <= covered / DESIGNS <= 0.98 + slack


def test_of_one_checkpoint_and_draw_it_is_students_interval() -> None:
    y = np.random.default_rng(1).integers(-1, 2, (1, 1, 300))
    found = crossed(y)
    low, high = stats.t.interval(0.95, 299, loc=y.mean(), scale=stats.sem(y[0, 0]))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(stats.ttest_1samp(y[0, 0], 0).pvalue, abs=1e-9)
    assert found.about == "draw" and found.shares["questions"] == 1.0


def test_with_one_seed_it_is_about_the_checkpoint() -> None:
    rng = np.random.default_rng(2)
    sd = {"seed": 5.0, "draw": 0.1, "question": 0.2, "rest": 0.2}
    found = crossed(_design(rng, (1, 6, 400), sd) - 5.0)
    assert found.about == "checkpoint" and found.shares["training seeds"] == 0.0


def test_an_interval_ends_where_the_mean_can_lie() -> None:
    """Two draws of a model that is nearly always wrong: Student's factor is 12.7."""
    y = np.zeros((1, 2, 200))
    y[0, 0, :10] = 1.0
    free = crossed(y)
    assert free.low < 0
    held = crossed(y, within=(0.0, 1.0))
    assert (held.low, held.high, held.p) == (0.0, free.high, free.p)


def test_shares_name_the_source() -> None:
    rng = np.random.default_rng(3)
    none = {"seed": 0.0, "draw": 0.0, "question": 0.0, "rest": 0.02}
    names = {"seed": "training seeds", "draw": "noise draws", "question": "questions"}
    for source, name in names.items():
        shares = crossed(_design(rng, (6, 5, 300), {**none, source: 1.0})).shares
        assert max(shares, key=shares.__getitem__) == name and shares[name] > 0.8, (source, shares)
        assert sum(shares.values()) == pytest.approx(1.0)
    answers = rng.integers(0, 2, (3, 2, 200, 8)).astype(float)  # nothing but sampling
    shares = crossed(answers).shares
    assert shares["sampled answers"] > 0.5


def test_expected_mean_squares_give_the_components() -> None:
    """Averaged over designs, shares times the mean's variance are what the design was made of."""
    rng = np.random.default_rng(4)
    sd = {"seed": 0.2, "draw": 0.1, "question": 1.0, "rest": 0.5}
    size = (4, 3, 100)
    true = {
        "questions": sd["question"] ** 2 / 100,
        "training seeds": sd["seed"] ** 2 / 4,
        "noise draws": sd["draw"] ** 2 / 12,
        "rest": sd["rest"] ** 2 / 1200,
    }
    means, total = [], dict.fromkeys(true, 0.0)
    for _ in range(300):
        y = _design(rng, size, sd)
        means.append(y.mean())
        for name in true:
            total[name] += crossed(y).shares[name] / 300
    assert np.var(means) == pytest.approx(sum(true.values()), rel=0.2)
    assert total["questions"] == pytest.approx(true["questions"] / sum(true.values()), abs=0.1)


def _verdict(y: np.ndarray) -> str:
    found, equal = crossed(y), crossed(y, 0.9)
    return word(found.value, equal.low, equal.high, 0.02, found.p)


def test_verdicts() -> None:
    rng = np.random.default_rng(5)
    sd = {"seed": 0.0, "draw": 0.0, "question": 0.1, "rest": 0.1}
    for shift, expected in ((0.0, "EQUIVALENT"), (0.1, "IMPROVED"), (-0.1, "DEGRADED")):
        assert _verdict(_design(rng, (3, 2, 400), sd) + shift) == expected
    assert _verdict(_design(rng, (2, 1, 20), {**sd, "seed": 0.2})) == "UNDECIDED"


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.zeros((2, 3)), r"has shape \[2, 3\]"),
        (np.zeros((2, 3, 1)), "two questions or more"),
        (np.full((1, 1, 3), np.nan), "not finite"),
    ],
)
def test_what_cannot_be_is_refused(y: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        crossed(y)
    with pytest.raises(ValueError, match="every seed needs"):
        stacked([[[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
