"""Settings of a run: presets, the arms' specifications, contradictions named."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetero_plugin.config import ConfigError
from hetero_plugin.demo import settings
from hetero_plugin.sites import counts, select, sites_from_config

_CONFIG = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 272,
}


def test_the_arms_specifications() -> None:
    run = settings.short()
    assert run.noise("clean") is None
    noise, with_aqn = run.noise("noise"), run.noise("noise_aqn")
    assert noise is not None and with_aqn is not None
    assert [rule.scale for rule in noise.rules] == [0.05]
    assert noise.rules[0].direction == "both" and noise.rules[0].phase == "both"
    assert noise.aqn is None and with_aqn.aqn is not None
    assert noise.rules == with_aqn.rules and noise.fingerprint != with_aqn.fingerprint
    assert counts(select(noise, sites_from_config(_CONFIG))) == {"linear": 28}


@pytest.mark.parametrize("make", [settings.short, settings.full])
def test_each_aqn_epoch_starts_clean_and_spans_its_range(make: object) -> None:
    run = make()  # type: ignore[operator]
    aqn, steps = run.aqn(), run.grpo.steps
    sigma = [aqn.sigma(step) for step in range(steps)]
    half = steps // 2
    assert sigma[0] == sigma[half] == 0.0
    assert max(sigma[:half]) == 0.05 and max(sigma[half:]) == 0.01
    assert sigma[half - 1] == 0.01 and sigma[-1] == 0.0005


def test_the_test_set_has_at_least_a_thousand_questions() -> None:
    assert settings.short().task.n_test >= 1000 and settings.full().task.n_test >= 1000
    assert settings.short().n_eval is None and settings.full().n_eval is None


def test_a_change_keeps_the_rest_of_the_preset() -> None:
    run = settings.full(grpo={"learning_rate": 3e-4})
    assert run.grpo.learning_rate == 3e-4
    assert run.grpo.steps == settings.full().grpo.steps
    assert run.identity() != settings.full().identity()
    assert settings.full().identity() == settings.full().identity()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_file": Path("a.jsonl")}, "train_file is given without test_file"),
        ({"test_file": Path("a.jsonl")}, "test_file is given without train_file"),
        ({"train_file": Path("a"), "test_file": Path("b")}, "need model"),
        ({"arms": ("clean", "clean")}, "each once"),
        ({"arms": ("noisy",)}, "arms"),
        ({"levels": (0.05,)}, "give 0"),
        ({"grpo": {"steps": 13}}, "does not divide into 2 AQN epochs"),
        ({"grpo": {"steps": 4}}, "stages"),
        ({"grpo": {"stepz": 4}}, "grpo.stepz"),
        ({"noise_scale": -0.05}, "noise_scale"),
        ({"noise_scale": float("nan")}, "noise_scale"),
    ],
)
def test_contradictions_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings.short(**changes)


def test_steps_without_the_aqn_arm_need_no_schedule() -> None:
    assert settings.short(arms=("clean", "noise"), grpo={"steps": 3}).grpo.steps == 3


def test_answers_have_room_for_the_longest_sum_and_its_end() -> None:
    task = settings.TaskSettings(digits=5, operands=2)
    assert task.longest_answer == len("199998")
    assert settings.short().response_length() == 7
