"""One specification in every process, and every way to refuse a silent clean run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")
from omegaconf import OmegaConf

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.verl import active, preflight
from hetero_plugin.verl.settings import resolve_driver, resolve_worker

SPEC = {"scale": 0.05, "aqn": {"schedule": "constant", "sigma_start": 0.01}}
NOISE = NoiseConfig.parse(SPEC)


def rollout(**values: Any) -> Any:
    return OmegaConf.create({"name": "vllm", "quantization": None, "custom": None, **values})


def noisy(**custom: Any) -> Any:
    return rollout(quantization="hetero_noise", custom=custom or None)


def test_a_run_without_quantization_is_clean() -> None:
    assert resolve_driver(rollout(), {}) is None
    assert resolve_worker(rollout(), "w", {}) is None


def test_the_driver_reads_the_command_line_then_the_environment() -> None:
    from_line = resolve_driver(noisy(hetero_noise=SPEC), {})
    from_env = resolve_driver(noisy(), {"HETERO_NOISE_CONFIG": json.dumps(SPEC)})
    assert from_line is not None and from_env is not None
    assert from_line.config.fingerprint == from_env.config.fingerprint == NOISE.fingerprint


def test_the_command_line_overrides_the_environment_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = {"HETERO_NOISE_CONFIG": json.dumps({"scale": 0.1})}
    found = resolve_driver(noisy(hetero_noise=SPEC), other)
    assert found is not None and found.config.fingerprint == NOISE.fingerprint
    said = capsys.readouterr().out
    assert "overrides" in said and NOISE.fingerprint in said


def test_a_bare_quantization_means_the_default_preset() -> None:
    found = resolve_driver(noisy(), {})
    assert found is not None
    assert found.config.fingerprint == NoiseConfig.parse("qerl-fp4").fingerprint


@pytest.mark.parametrize("key", ["hetero_noise", "hetero_run"])
def test_a_specification_without_quantization_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"would be clean.*quantization=hetero_noise"):
        resolve_driver(rollout(custom={key: {"scale": 0.05}}), {})


def test_noise_in_the_environment_of_a_clean_run_is_refused() -> None:
    environ = {"HETERO_NOISE_CONFIG": json.dumps(SPEC)}
    with pytest.raises(ConfigError, match="unset HETERO_NOISE_CONFIG"):
        resolve_driver(rollout(), environ)
    with pytest.raises(ConfigError, match="worker 7: this is a clean run"):
        resolve_worker(rollout(), "worker 7", environ)


def test_a_worker_that_was_told_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"server: .*it would run clean"):
        resolve_worker(noisy(hetero_noise=SPEC), "server", {})


def test_a_worker_that_was_told_something_else_is_refused() -> None:
    other = NoiseConfig.parse({"scale": 0.1})
    with pytest.raises(ConfigError, match=f"{NOISE.fingerprint}.*{other.fingerprint}"):
        resolve_worker(noisy(hetero_noise=SPEC), "actor", {"HETERO_NOISE_CONFIG": other.canonical})


def test_a_wrong_option_is_named() -> None:
    known = r"(?s)hetero_run.*validation, actor_aqn, attest, metrics_every"
    with pytest.raises(ConfigError, match=known):
        resolve_driver(noisy(hetero_run={"validate": "both"}), {})


def test_an_actor_built_without_noise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETERO_NOISE_CONFIG", NOISE.canonical)
    with (
        pytest.raises(ConfigError, match="actor was built without noise"),
        active.run_noise(noisy(), "worker actor_rollout rank 0", trains=True),
    ):
        assert active.current() is not None
    assert active.current() is None


def test_the_noise_step_needs_a_noisy_actor() -> None:
    with pytest.raises(ConfigError, match="no noisy actor"):
        active.set_actor_step(3)


def config_of(tmp_path: Path, **changes: Any) -> Any:
    """A driver's configuration as verl's hydra composes it, where the checks look."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    config = OmegaConf.create(
        {
            "actor_rollout_ref": {
                "model": {"path": str(tmp_path)},
                "actor": {"strategy": "fsdp2"},
                "rollout": {
                    "name": "vllm",
                    "quantization": "hetero_noise",
                    "custom": {"hetero_noise": SPEC},
                    "disaggregation": {"enabled": False},
                },
            },
            "trainer": {"use_v1": True, "v1": {"trainer_mode": "sync"}},
        }
    )
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("HETERO_NOISE_CONFIG", raising=False)


@pytest.mark.usefixtures("on_cpu")
def test_a_good_run_passes_and_its_workers_get_the_specification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    preflight.check(config)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")  # as TRL leaves it, once it is imported
    env = preflight.worker_environment(config)
    assert env["VLLM_LOGGING_LEVEL"] == "INFO"  # the workers' word is in the run's log all the same
    assert NoiseConfig.parse(env["HETERO_NOISE_CONFIG"]).fingerprint == NOISE.fingerprint
    assert env["VERL_PLATFORM"] == "cpu"


@pytest.mark.usefixtures("on_cpu")
def test_a_clean_runs_workers_get_none(tmp_path: Path) -> None:
    rollout = "actor_rollout_ref__rollout"
    config = config_of(tmp_path, **{f"{rollout}__quantization": None, f"{rollout}__custom": None})
    preflight.check(config)
    assert "HETERO_NOISE_CONFIG" not in preflight.worker_environment(config)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("actor_rollout_ref__rollout__name", "sglang", "rollout.name=vllm"),
        ("actor_rollout_ref__actor__strategy", "megatron", "strategy=fsdp or fsdp2"),
        ("actor_rollout_ref__actor__strategy", "fsdp", "actor.strategy='fsdp': .*FSDP1 rejects"),
        ("actor_rollout_ref__ref__strategy", "fsdp", "ref.strategy='fsdp': .*FSDP1 rejects CPU"),
        ("trainer__use_v1", False, "use_v1=True"),
        ("trainer__v1__trainer_mode", "separate_async", "sync or colocate_async"),
        ("trainer__v1__trainer_mode", "colocate_async", "validation=noisy"),
        ("actor_rollout_ref__rollout__disaggregation__enabled", True, "disaggregation"),
        ("actor_rollout_ref__model__path", "/no/such/model", "no config.json"),
        ("actor_rollout_ref__model__use_fused_kernels", True, "weight of lm_head, without its"),
        ("actor_rollout_ref__actor__use_fused_kernels", True, "actor.use_fused_kernels=True"),
    ],
)
def test_a_run_that_cannot_work_is_refused_before_it_starts(
    tmp_path: Path, setting: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        preflight.check(config_of(tmp_path, **{setting: value}))


@pytest.mark.usefixtures("on_cpu")
def test_another_family_on_cpu_is_named(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ConfigError, match=r"'llama'.*Qwen2"):
        preflight.check(config)


@pytest.mark.usefixtures("on_cpu")
def test_heads_that_vllm_cannot_compute_are_named(tmp_path: Path) -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert tuple(CPUAttentionBackend.get_supported_head_sizes()) == preflight._CPU_HEAD_SIZES
    config = config_of(tmp_path)
    shape = {"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    with pytest.raises(ConfigError, match="heads of size 16"):
        preflight.check(config)


@pytest.mark.usefixtures("on_cpu")
def test_an_empty_cuda_visible_devices_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="Unset it"):
        preflight.check(config_of(tmp_path))


LINEAR = {"targets": ["linear"], "scale": 0.05}


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("rule", "refused"),
    [
        (LINEAR, True),
        ({**LINEAR, "direction": "backward"}, True),
        ({**LINEAR, "point": "weight", "phase": "train"}, True),
        ({**LINEAR, "exclude": ["lm_head"]}, False),
        ({**LINEAR, "phase": "rollout"}, False),
        ({**LINEAR, "targets": ["mlp"]}, False),
        ({**LINEAR, "scale": 0.0}, False),
    ],
    ids=str,
)
def test_fused_kernels_are_refused_where_the_head_is_noisy_in_training(
    tmp_path: Path, rule: dict[str, Any], refused: bool
) -> None:
    rule = {**rule, "targets": ["re:.*mlp.*_proj"]} if rule["targets"] == ["mlp"] else rule
    config = config_of(tmp_path)
    shape = {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps(shape))
    OmegaConf.update(config, "actor_rollout_ref.model.use_fused_kernels", True)
    config.actor_rollout_ref.rollout.custom = {"hetero_noise": {"rules": [rule]}}
    if refused:
        with pytest.raises(ConfigError, match=r"use_fused_kernels=True .* exclude lm_head"):
            preflight.check(config)
    else:
        preflight.check(config)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("test_freq", [1, 20])
def test_a_validation_may_not_take_aqn_from_rollouts_in_flight(
    tmp_path: Path, test_freq: int
) -> None:
    config = config_of(tmp_path)
    OmegaConf.update(config, "trainer.v1.trainer_mode", "colocate_async")
    OmegaConf.update(config, "trainer.test_freq", test_freq)
    custom = {"hetero_noise": SPEC, "hetero_run": {"validation": "noisy"}}
    config.actor_rollout_ref.rollout.custom = custom
    with pytest.raises(ConfigError, match=r"colocate_async with aqn .*test_freq=-1"):
        preflight.check(config)
    config.trainer.test_freq = -1  # nothing is in flight before training
    preflight.check(config)
    config.trainer.test_freq = test_freq
    custom = {"hetero_noise": {"scale": 0.05}, "hetero_run": {"validation": "noisy"}}
    config.actor_rollout_ref.rollout.custom = custom
    preflight.check(config)


@pytest.mark.usefixtures("on_cpu")
def test_a_resumed_run_of_other_noise_is_refused_before_it_starts(tmp_path: Path) -> None:
    from hetero_plugin.verl import resume
    from hetero_plugin.verl.settings import RunNoise, RunOptions

    config = config_of(tmp_path)
    run = tmp_path / "run"
    other = RunNoise(NoiseConfig.parse({**SPEC, "seed": 5}), RunOptions())
    resume.write(run / "global_step_4", other)
    (run / resume.TRACKER).write_text("4")
    OmegaConf.update(config, "trainer.resume_mode", "auto")
    OmegaConf.update(config, "trainer.default_local_dir", str(run))
    with pytest.raises(ConfigError, match="seed: 5 then, 0 now"):
        preflight.check(config)
