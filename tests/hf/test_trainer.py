"""The real Trainer: step, phase and σ of each micro-batch; what is saved; killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hetero_plugin import ConfigError, NoiseConfig
from hetero_plugin.hf import HeteroNoiseCallback, state_of, unwrap, wrap
from tests.hf.families import make_family, tokens
from tests.hf.trainer_run import MICRO, SPEC, STEPS, trainer

Seen = list[tuple[int, str | None, float]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Seen]:
    """A run that nobody killed, and what was set at each of its forward passes."""
    folder = tmp_path_factory.mktemp("whole")
    made, _ = trainer(folder)
    seen: Seen = []

    def look(*args: Any) -> None:
        state = state_of(made.model)
        assert state.aqn is not None
        seen.append((state.step, state.phase, state.aqn.sigma))

    hook = made.model.register_forward_pre_hook(look)
    made.train()
    hook.remove()
    return made, folder, seen


def test_each_optimizer_step_has_one_noise_step(run: tuple[Any, Path, Seen]) -> None:
    made, _, seen = run
    assert SPEC.aqn is not None
    wanted = [(s, "train", SPEC.aqn.sigma(s)) for s in range(STEPS) for _ in range(MICRO)]
    assert seen == wanted
    assert len({sigma for _, _, sigma in seen}) >= 3
    logged = [entry for entry in made.state.log_history if "loss" in entry]
    assert [entry["hetero/step"] for entry in logged] == list(range(STEPS))
    assert [entry["hetero/sigma"] for entry in logged] == [SPEC.aqn.sigma(s) for s in range(STEPS)]


def test_checkpoints_are_clean(run: tuple[Any, Path, Seen]) -> None:
    """What is saved are the parameters, and the model is what it was once it is unwrapped."""
    made, folder, _ = run
    saved = load_file(folder / f"checkpoint-{STEPS}/model.safetensors")
    parameters = {n: p.detach() for n, p in made.model.named_parameters()}
    assert set(saved) == set(parameters)
    assert all(torch.equal(saved[name], parameters[name]) for name in saved)
    for path in folder.rglob("*.json"):
        assert "hetero_noise" not in path.read_text(), path
    state = state_of(made.model)
    assert state.phase is None and state.enabled and state.aqn is not None
    assert not state.aqn.offsets.any()


@pytest.mark.slow
def test_killed_in_a_step_and_resumed_is_the_run_that_was_not(
    run: tuple[Any, Path, Seen], tmp_path: Path
) -> None:
    _, whole, _ = run
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-m", "tests.hf.trainer_run", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {p.name for p in tmp_path.glob("checkpoint-*")} == {"checkpoint-2"}
    resumed, _ = trainer(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    for name in ("model.safetensors", "optimizer.pt"):
        paths = [folder / f"checkpoint-{STEPS}" / name for folder in (whole, tmp_path)]
        if name.endswith("pt"):
            one, two = (torch.load(path)["state"] for path in paths)
            assert all(torch.equal(one[i][key], two[i][key]) for i in one for key in one[i])
        else:
            one, two = (load_file(path) for path in paths)
            assert all(torch.equal(one[key], two[key]) for key in one)
        assert one.keys() == two.keys()


def test_what_is_between_steps_is_an_evaluation() -> None:
    model = wrap(make_family("qwen2"), SPEC, quiet=True)
    state: Any = type("State", (), {"global_step": 4})()
    none: Any = None
    for how, enabled in (("noisy", True), ("clean", False)):
        callback = HeteroNoiseCallback(evaluation=how)  # type: ignore[arg-type]
        callback.on_train_begin(none, state, none, model=model)
        callback.on_step_begin(none, state, none, model=model)
        noise = state_of(model)
        assert (noise.step, noise.phase, noise.enabled) == (4, "train", True)
        assert noise.aqn is not None and noise.aqn.offsets.any()
        callback.on_step_end(none, state, none, model=model)
        assert (noise.phase, noise.enabled) == ("rollout", enabled)
        assert not noise.aqn.offsets.any()
        with torch.no_grad():
            model(tokens())  # a phase is set: nothing is refused
    unwrap(model)
    with pytest.raises(ConfigError, match="not wrapped"):
        HeteroNoiseCallback().on_train_begin(none, state, none, model=model)
    wrap(model, NoiseConfig(preset="linear", resample="call"))
    with pytest.raises(ConfigError, match="resample: step"):
        HeteroNoiseCallback().on_train_begin(none, state, none, model=model)
    with pytest.raises(ConfigError, match="'noisy' or 'clean'"):
        HeteroNoiseCallback(evaluation="both")  # type: ignore[arg-type]
