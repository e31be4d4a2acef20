"""σ per step, against the tables that QeRL and the experiments state."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetero_plugin.config import AQNConfig, ConfigError, schedule
from tests.fuzz.examples import fixed


def test_global_matches_the_formula_and_its_exact_ends() -> None:
    aqn = AQNConfig(
        schedule="global", sigma_start=0.05, sigma_end=0.0005, stages=10, total_steps=116
    )
    # Ten equal intervals of 11.6 steps: a stage begins at the first whole step inside it.
    begins = [math.ceil(11.6 * i) for i in range(10)]
    expected = [0.0, *(0.05 * (0.0005 / 0.05) ** (i / 8) for i in range(9))]
    for stage, first in enumerate(begins):
        last = begins[stage + 1] - 1 if stage < 9 else 115
        assert aqn.sigma(first) == pytest.approx(expected[stage], rel=1e-12)
        assert aqn.sigma(last) == aqn.sigma(first)
    assert (aqn.sigma(0), aqn.sigma(12), aqn.sigma(115)) == (0.0, 0.05, 0.0005)
    table = [0, 0.05, 0.0281, 0.0158, 0.0089, 0.005, 0.0028, 0.0016, 0.00089, 0.0005]
    assert [aqn.sigma(first) for first in begins] == pytest.approx(table, rel=2e-2)


def test_epoch_matches_the_experiments() -> None:
    aqn = AQNConfig(
        schedule="epoch",
        epoch_ranges=[(0.05, 0.01), (0.01, 0.0005)],
        stages_per_epoch=5,
        steps_per_epoch=58,
    )
    sigmas = [aqn.sigma(step) for step in range(116)]
    # Six stages an epoch: the clean one and five noisy ones.
    for offset, start, end in ((0, 0.05, 0.01), (58, 0.01, 0.0005)):
        epoch = sigmas[offset : offset + 58]
        levels = list(dict.fromkeys(epoch))
        assert levels[0] == 0.0
        assert levels[1:] == pytest.approx([start * (end / start) ** (i / 4) for i in range(5)])
        assert (levels[1], levels[-1]) == (start, end)
        lengths = [epoch.count(level) for level in levels]
        assert sum(lengths) == 58 and set(lengths) <= {9, 10}


def test_epoch_without_ranges_is_one_geometric_decay() -> None:
    aqn = AQNConfig(
        schedule="epoch",
        sigma_start=0.04,
        sigma_end=0.0004,
        epochs=2,
        stages_per_epoch=3,
        steps_per_epoch=4,
    )
    middle = math.sqrt(0.04 * 0.0004)
    expected = [0, 0.04, math.sqrt(0.04 * middle), middle]
    expected += [0, middle, math.sqrt(middle * 0.0004), 0.0004]
    assert [aqn.sigma(step) for step in range(8)] == pytest.approx(expected)


def test_linear_and_cosine_and_constant() -> None:
    linear = AQNConfig(schedule="linear", sigma_start=0.04, sigma_end=0, total_steps=5)
    assert [linear.sigma(i) for i in range(6)] == pytest.approx([0.04, 0.03, 0.02, 0.01, 0, 0])
    cosine = AQNConfig(schedule="cosine", sigma_start=0.04, sigma_end=0, total_steps=5)
    assert cosine.sigma(2) == pytest.approx(0.02)
    assert (cosine.sigma(0), cosine.sigma(4)) == (0.04, 0.0)
    assert cosine.sigma(1) == pytest.approx(0.02 * (1 + math.cos(math.pi / 4)))
    assert AQNConfig(schedule="constant", sigma_start=0.01).sigma(10**6) == 0.01


def test_two_stages_have_no_zero_division() -> None:
    # i/(S−2) is 0/0 here; elsewhere that NaN reached the weights.
    aqn = AQNConfig(stages=2, sigma_start=0.05, sigma_end=0.0005, total_steps=4)
    assert [aqn.sigma(i) for i in range(4)] == [0.0, 0.0, 0.05, 0.05]


def test_one_stage_would_be_a_silent_clean_run() -> None:
    with pytest.raises(ConfigError, match="constant"):
        AQNConfig(stages=1, total_steps=10)


def test_a_step_after_the_end_keeps_the_last_value() -> None:
    assert AQNConfig(total_steps=116).sigma(10_000) == 0.0005
    epoch = AQNConfig(schedule="epoch", epoch_ranges=[(0.05, 0.01)], steps_per_epoch=58)
    assert epoch.sigma(58) == 0.01


@pytest.mark.parametrize("step", [-1, 1.5, True, "3"])
@pytest.mark.parametrize("name", ["global", "constant", "linear", "cosine"])
def test_a_bad_step_is_an_error(name: str, step: object) -> None:
    config = AQNConfig(schedule=name, total_steps=20)
    with pytest.raises(ConfigError, match="step"):
        config.sigma(step)  # type: ignore[arg-type]


@fixed(100)
@given(
    start=st.floats(1e-6, 1.0),
    end=st.floats(1e-6, 1.0),
    stages=st.integers(2, 40),
    steps=st.integers(40, 400),
)
def test_global_is_always_finite_between_its_ends_and_visits_every_stage(
    start: float, end: float, stages: int, steps: int
) -> None:
    aqn = AQNConfig(sigma_start=start, sigma_end=end, stages=stages, total_steps=steps)
    sigmas = [aqn.sigma(i) for i in range(steps)]
    low, high = min(start, end), max(start, end)
    assert sigmas[0] == 0.0
    noisy = [s for s in sigmas if s != 0.0]
    assert noisy and all(low * (1 - 1e-9) <= s <= high * (1 + 1e-9) for s in noisy)
    assert noisy[0] == start
    assert sigmas[-1] == (end if stages > 2 else start)
    visited = {schedule.stage_of(i, steps, stages) for i in range(steps)}
    assert visited == set(range(stages))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schedule": "linear", "stages": 3}, "stages"),
        ({"schedule": "constant", "sigma_end": 0.1}, "sigma_end"),
        ({"schedule": "epoch", "epoch_ranges": [(0.1, 0.01)], "sigma_start": 0.1}, "both given"),
        ({"schedule": "epoch", "epoch_ranges": [(0.1, 0.01)], "epochs": 2}, "must agree"),
        ({"schedule": "epoch", "epochs": 2, "steps_per_epoch": 58, "total_steps": 100}, "116"),
        ({"schedule": "epoch", "epochs": 3, "total_steps": 100}, "multiple"),
        ({"schedule": "epoch", "epoch_ranges": []}, "epoch_ranges"),
        ({"schedule": "exponential"}, "exponential"),
        ({"sigma_end": 0}, "> 0"),
        ({"sigma_start": -1}, "≥ 0"),
        ({"sigma_start": float("inf")}, "finite"),
        ({"total_steps": 5}, "do not hold"),
        ({"total_steps": True}, "total_steps"),
        ({"targets": []}, "targets"),
        ({"stage": 10}, "Did you mean 'stages'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AQNConfig(**settings)


def test_an_open_length_is_an_error_until_the_trainer_fills_it_in() -> None:
    config = AQNConfig(schedule="global")
    with pytest.raises(ConfigError, match="total_steps"):
        config.sigma(0)
    assert config.length() is None
    filled = config.for_run(total_steps=116)
    assert filled.length() == 116 and filled.sigma(115) == 0.0005
    # A length that the user gave stays.
    assert filled.for_run(total_steps=50).total_steps == 116

    epoch = AQNConfig(schedule="epoch", epoch_ranges=[(0.05, 0.01), (0.01, 0.0005)])
    with pytest.raises(ConfigError, match="steps_per_epoch"):
        epoch.sigma(0)
    by_epoch = epoch.for_run(total_steps=116, steps_per_epoch=58)
    by_total = epoch.for_run(total_steps=116)
    assert by_epoch.length() == by_total.length() == 116
    assert [by_epoch.sigma(i) for i in range(116)] == [by_total.sigma(i) for i in range(116)]
    # A run that is cut short keeps the epochs' length.
    assert epoch.for_run(total_steps=30, steps_per_epoch=58).sigma(29) == by_epoch.sigma(29)
    open_epochs = AQNConfig(schedule="epoch").for_run(total_steps=116, steps_per_epoch=58)
    assert open_epochs.length() == 116
