"""The command line of a small run, as hydra understands it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hetero_plugin.config import NoiseConfig
from hetero_plugin.verl import begun
from hetero_plugin.verl.launch import (
    LaunchError,
    MiniatureRun,
    execute,
    read_metrics,
)
from hetero_plugin.verl.lost import LostWorkers

AQN = {
    "schedule": "epoch",
    "epoch_ranges": [[0.05, 0.01], [0.01, 0.0005]],
    "stages_per_epoch": 5,
    "steps_per_epoch": 12,
}


def run_of(tmp_path: Path, **values: Any) -> MiniatureRun:
    paths = {
        "model": tmp_path / "model",
        "train_files": tmp_path / "train.parquet",
        "val_files": tmp_path / "test.parquet",
        "output": tmp_path / "it's a run",
    }
    return MiniatureRun(**{**paths, "steps": 2, **values})


def compose(run: MiniatureRun) -> Any:
    """verl's configuration with the run's overrides, composed by hydra itself."""
    pytest.importorskip("verl")
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module

    with initialize_config_module(version_base=None, config_module="verl.trainer.config"):
        return hydra_compose("ppo_trainer", overrides=list(run.words))


def test_hydra_reads_the_specification_that_was_meant(tmp_path: Path) -> None:
    noise = NoiseConfig.parse({"preset": "all", "scale": 1e-5, "layers": ["0-1"], "aqn": AQN})
    rollout = compose(run_of(tmp_path, noise=noise)).actor_rollout_ref.rollout
    from hetero_plugin.verl.settings import resolve_driver

    assert rollout.quantization == "hetero_noise"
    found = resolve_driver(rollout, {})
    assert found is not None and found.config.fingerprint == noise.fingerprint
    assert found.options.validation == "both"


def test_a_clean_run_says_nothing_of_noise(tmp_path: Path) -> None:
    config = compose(run_of(tmp_path))
    assert config.actor_rollout_ref.rollout.quantization is None
    assert "custom" not in config.actor_rollout_ref.rollout
    assert config.trainer.default_local_dir == str(tmp_path / "it's a run" / "checkpoints")
    assert config.trainer.save_freq == 2


def test_overrides_come_last(tmp_path: Path) -> None:
    run = run_of(tmp_path, overrides=("actor_rollout_ref.actor.optim.lr=0.5",))
    assert compose(run).actor_rollout_ref.actor.optim.lr == 0.5


def test_the_environment_is_this_runs_own(tmp_path: Path) -> None:
    shell = {"HETERO_NOISE_CONFIG": "{}", "CUDA_VISIBLE_DEVICES": "", "PATH": "/bin"}
    env = run_of(tmp_path, cache=tmp_path / "cache").environment(shell)
    assert "HETERO_NOISE_CONFIG" not in env and "CUDA_VISIBLE_DEVICES" not in env
    assert env["PATH"] == "/bin" and env["VERL_PLATFORM"] == "cpu"
    assert env["VLLM_DISABLE_COMPILE_CACHE"] == "0"
    assert env["VLLM_CACHE_ROOT"].startswith(str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 8, "mini_batch": 3}, "mini_batch=3 does not divide batch=8"),
        ({"batch": 8, "samples": 4, "micro_batch": 5}, "micro_batch=5 does not divide"),
        ({"batch": 8, "samples": 4, "gpus": 2, "micro_batch": 32}, "/ gpus = 16 sequences"),
        ({"batch": 3, "samples": 3, "gpus": 2}, "gpus=2 does not divide mini_batch x samples = 9"),
        ({"gpus": 2, "tensor_parallel": 4}, "tensor_parallel=4 does not divide gpus=2"),
        ({"mixed_precision": "float16"}, "mixed_precision"),
        ({"validation": "sometimes"}, "validation"),
        ({"stepss": 3}, "stepss"),
    ],
)
def test_a_run_that_cannot_work_is_refused(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        run_of(tmp_path, **values)


@pytest.mark.parametrize(("batch", "samples", "passes"), [(8, 8, 64), (16, 16, 128), (25, 6, 75)])
def test_the_default_micro_batch_divides_an_update(
    tmp_path: Path, batch: int, samples: int, passes: int
) -> None:
    assert run_of(tmp_path, batch=batch, samples=samples).sequences_a_pass == passes


def test_ranks_and_precision_are_verls_own_settings(tmp_path: Path) -> None:
    one = compose(run_of(tmp_path))
    from omegaconf import OmegaConf

    two = compose(run_of(tmp_path, gpus=2, tensor_parallel=2, mixed_precision="bfloat16"))
    engine = "actor_rollout_ref.rollout.engine_kwargs.vllm.distributed_executor_backend"
    for config, ranks, dtype, executor in ((one, 1, "fp32", "uni"), (two, 2, "bf16", None)):
        assert config.trainer.n_gpus_per_node == config.ray_kwargs.ray_init.num_gpus == ranks
        actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
        assert rollout.tensor_model_parallel_size == ranks
        assert actor.fsdp_config.mixed_precision.param_dtype == dtype
        assert actor.fsdp_config.mixed_precision.reduce_dtype == "fp32"
        assert actor.fsdp_config.model_dtype == "fp32"
        assert actor.ppo_micro_batch_size_per_gpu == 128 // ranks
        # Ranks of one engine need processes of their own, which vLLM starts by itself.
        assert OmegaConf.select(config, engine) == executor
        variables = config.ray_kwargs.ray_init.runtime_env.get("env_vars") or {}
        assert ("VLLM_ENABLE_V1_MULTIPROCESSING" in variables) == (executor == "uni")


def test_only_complete_lines_of_metrics_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    line = json.dumps({"step": 1, "data": {"a": 1.0}})
    path.write_text(f"{line}\n" + line[:9])
    assert read_metrics(path) == [{"step": 1, "data": {"a": 1.0}}]


def pretend(
    monkeypatch: pytest.MonkeyPatch, run: MiniatureRun, *, attests: bool = True, saves: bool = True
) -> None:
    """In verl's place a program that leaves what a run of two steps leaves."""
    end = run.checkpoints / "attestation-end-step2.json"
    start = run.checkpoints / "attestation-start-step0.json"
    lines = [
        "import pathlib, sys",
        f"here = pathlib.Path({str(run.checkpoints)!r})",
        "here.mkdir(exist_ok=True)",
        f"pathlib.Path({str(run.metrics)!r}).write_text("
        '\'{"step": 1, "data": {}}\\n{"step": 2, "data": {}}\\n\')',
    ]
    if saves:
        lines.append(f"pathlib.Path({str(run.checkpoint)!r}).mkdir(parents=True, exist_ok=True)")
    if attests:
        lines += [
            f"pathlib.Path({str(path)!r}).write_text('{{\"passed\": true}}')"
            for path in (start, end)
        ]
    program = [sys.executable, "-c", "\n".join(lines)]
    monkeypatch.setattr("hetero_plugin.verl.launch.command", lambda _: program)


def test_a_second_run_keeps_the_first_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, noise=NoiseConfig.parse("rmsnorm"))
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "weights").write_text("first")
    run.metrics.write_text("first\n")
    run.log.write_text("first")
    pretend(monkeypatch, run)
    rows = execute(run, timeout=60)
    assert [row["step"] for row in rows] == [1, 2]  # of this run alone
    for name in ("metrics-1.jsonl", "train-1.log", "checkpoints-1/weights"):
        assert (run.output / name).read_text().strip() == "first"
    assert not (run.checkpoints / "weights").exists()
    execute(run, timeout=60)
    assert (run.output / "metrics-2.jsonl").is_file() and (run.output / "train-2.log").is_file()


def test_a_resumed_run_finds_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, overrides=("trainer.resume_mode=auto",))
    assert run.resumes and not run_of(tmp_path).resumes and run_of(tmp_path, resume=True).resumes
    assert not run_of(tmp_path, overrides=("trainer.resume_mode='disable'",)).resumes
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "weights").write_text("first")
    pretend(monkeypatch, run)
    execute(run, timeout=60)
    assert (run.checkpoints / "weights").read_text() == "first"


def test_a_run_that_was_stopped_after_its_last_step_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """verl, resumed at the last step, trains nothing: its metrics are those of the attempt before.

    Where they were not written any more, the step is made again from the checkpoint before it.
    """
    run = run_of(tmp_path, resume=True)
    for step in (1, 2):
        actor = run.checkpoints / f"global_step_{step}" / "actor"
        actor.mkdir(parents=True)
        (actor / "model_world_size_1_rank_0.pt").touch()
        (actor.parent / "data.pt").touch()
    tracker = run.checkpoints / "latest_checkpointed_iteration.txt"
    tracker.write_text("2")
    one, two = (json.dumps({"step": step, "data": {"a": step}}) + "\n" for step in (1, 2))
    run.metrics.write_text(one + two[:9])
    begun.write(run)
    lines = [
        "import pathlib",
        f"made = {two!r} if pathlib.Path({str(tracker)!r}).read_text() == '1' else ''",
        f"pathlib.Path({str(run.metrics)!r}).write_text(made)",
    ]
    program = [sys.executable, "-c", "\n".join(lines)]
    monkeypatch.setattr("hetero_plugin.verl.launch.command", lambda _: program)
    rows = [{"step": 1, "data": {"a": 1}}, {"step": 2, "data": {"a": 2}}]
    assert execute(run, timeout=60) == rows
    assert "it goes on from step 1" in capsys.readouterr().out
    tracker.write_text("2")
    assert execute(run, timeout=60) == rows
    assert "goes on" not in capsys.readouterr().out and tracker.read_text() == "2"


@pytest.mark.parametrize("resumes", [False, True])
def test_an_earlier_runs_attestation_is_not_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumes: bool
) -> None:
    overrides = ("trainer.resume_mode=auto",) if resumes else ()
    run = run_of(tmp_path, noise=NoiseConfig.parse("rmsnorm"), overrides=overrides)
    pretend(monkeypatch, run)
    execute(run, timeout=60)
    pretend(monkeypatch, run, attests=False)
    with pytest.raises(LaunchError, match="left no passing attestation of its start"):
        execute(run, timeout=60)


def test_an_earlier_runs_checkpoint_is_not_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path)
    pretend(monkeypatch, run)
    execute(run, timeout=60)
    pretend(monkeypatch, run, saves=False)
    with pytest.raises(LaunchError, match="ended without its 2 steps and their checkpoint"):
        execute(run, timeout=60)


RAYLET = (
    "\x1b[33m(raylet)\x1b[0m [2026-01-01 00:00:00,000 E 1 1] (raylet) node_manager.cc:3517: "
    "{memory} Workers (tasks / actors) killed due to memory pressure (OOM), {others} Workers "
    "crashed due to other reasons at node (ID: ab, IP: 192.0.2.2) over the last time period. To\n"
)


def test_lost_workers_are_noticed_once_nothing_moves(tmp_path: Path) -> None:
    now, log = [0.0], tmp_path / "train.log"
    lost = LostWorkers(log, clock=lambda: now[0])
    assert lost.hopeless() is None  # no log yet
    log.write_text("step 1\n" + RAYLET.format(memory=4, others=0)[:60])
    now[0] = 30.0
    assert lost.hopeless() is None, "half a line"
    lost.stepped()
    with log.open("w") as out:
        out.write("step 1\n" + RAYLET.format(memory=4, others=0))
    assert lost.hopeless() is None
    now[0] = 149.0
    assert lost.hopeless() is None
    now[0] = 150.0
    why = lost.hopeless()
    assert why is not None and "4 ended for want of memory" in why and "120 seconds" in why
    # A step taken since: it could do without them. Another loss, after a step of 400 s.
    now[0] = 430.0
    lost.stepped()
    assert lost.hopeless() is None
    with log.open("a") as out:
        out.write(RAYLET.format(memory=0, others=1))
    now[0] = 431.0
    assert lost.hopeless() is None
    now[0] = 1230.0
    assert lost.hopeless() is None, "twice the longest step"
    now[0] = 1232.0
    why = lost.hopeless()
    assert why is not None and "1 crashed or killed" in why and "memory" not in why


def test_a_run_that_loads_for_long_is_not_taken_for_lost(tmp_path: Path) -> None:
    """An idle worker that was lost early is not missed, and the first step may take long."""
    now, log = [0.0], tmp_path / "train.log"
    lost = LostWorkers(log, clock=lambda: now[0])
    log.write_text(RAYLET.format(memory=1, others=0))
    now[0] = 20.0
    assert lost.hopeless() is None
    now[0] = 1819.0
    assert lost.hopeless() is None
    now[0] = 1821.0
    assert "1 ended for want of memory" in (lost.hopeless() or "")


def test_a_run_that_waits_for_workers_it_lost_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = RAYLET.format(memory=0, others=2)
    code = f"import time; print({line!r}, flush=True); time.sleep(300)"
    monkeypatch.setattr("hetero_plugin.verl.launch.command", lambda _: [sys.executable, "-c", code])
    monkeypatch.setattr("hetero_plugin.verl.lost._BEFORE_FIRST", 1.0)
    with pytest.raises(LaunchError, match=r"was stopped: Ray lost workers of it \(\d crashed"):
        execute(run_of(tmp_path), timeout=120)


@pytest.mark.engine
def test_a_failed_run_says_why_and_where_its_log_is(tmp_path: Path) -> None:
    pytest.importorskip("verl")
    run = run_of(tmp_path)  # there is no model
    with pytest.raises(LaunchError, match=r"no config\.json") as failure:
        execute(run, timeout=300)
    assert str(run.log) in str(failure.value)
