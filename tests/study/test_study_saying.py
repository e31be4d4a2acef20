"""A training log must hold the word of every noisy process, and a clean one none."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetero_plugin.config import NoiseConfig
from hetero_plugin.sites import sites_from_config
from hetero_plugin.state import NoiseState
from hetero_plugin.study.saying import SilentProcess, check_log

_CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
    "vocab_size": 272,
}
ACTOR, WORKER = "verl actor rank 0", "engine worker 0"


def _noise() -> NoiseConfig:
    return NoiseConfig.parse({"preset": "qerl-fp4", "scale": 0.05})


def _said(who: str, noise: NoiseConfig) -> str:
    """The line as the process itself makes it, behind Ray's prefix."""
    line = NoiseState(noise, sites_from_config(_CONFIG)).describe(who)
    return f"\x1b[36m(WorkerDict pid=71)\x1b[0m {line}\n"


def _log(path: Path, *lines: str) -> Path:
    path.write_text("verl: 2 workers\n" + "".join(lines) + "step 1\n")
    return path


def test_both_processes_said_it(tmp_path: Path) -> None:
    log = _log(tmp_path / "log", _said(ACTOR, _noise()), _said(WORKER, _noise()))
    said = check_log(log, _noise())
    assert [(line["who"], line["sites"]) for line in said] == [(ACTOR, 28), (WORKER, 28)]
    assert {line["spec"] for line in said} == {_noise().fingerprint}


@pytest.mark.parametrize(("spoke", "silent"), [(ACTOR, "engine worker"), (WORKER, "verl actor")])
def test_a_silent_process_is_named(tmp_path: Path, spoke: str, silent: str) -> None:
    with pytest.raises(SilentProcess, match=f"no {silent} said"):
        check_log(_log(tmp_path / "log", _said(spoke, _noise())), _noise())


def test_a_clean_arm_with_a_noisy_process(tmp_path: Path) -> None:
    with pytest.raises(SilentProcess, match=r"clean arm has a noisy process: engine worker 0"):
        check_log(_log(tmp_path / "log", _said(WORKER, _noise())), None)


def test_a_clean_arm_may_say_that_it_is_clean(tmp_path: Path) -> None:
    line = "hetero_noise: rollout worker 0.0: clean\n"
    assert check_log(_log(tmp_path / "log", line), None) == []
    with pytest.raises(SilentProcess):
        check_log(_log(tmp_path / "log", line), _noise())


def test_another_specification(tmp_path: Path) -> None:
    other = _noise().replace(seed=9)
    log = _log(tmp_path / "log", _said(ACTOR, _noise()), _said(WORKER, other))
    with pytest.raises(SilentProcess, match=f"runs the specification {other.fingerprint}"):
        check_log(log, _noise())


def test_a_process_that_says_it_twice_was_built_twice(tmp_path: Path) -> None:
    twice = _said(WORKER, _noise()) * 2
    with pytest.raises(SilentProcess, match="more than once"):
        check_log(_log(tmp_path / "log", _said(ACTOR, _noise()), twice), _noise())
