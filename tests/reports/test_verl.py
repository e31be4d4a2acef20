"""verl as its users run it: command lines that would lose noise or results, and what comes of them.

The configuration is verl's own, composed from the words of a command line, and goes to the check
that `python -m verl.trainer.main_ppo` makes before it starts Ray.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.verl.checkpoint import CheckpointError, merge
from hetero_plugin.verl.launch import MiniatureRun

SPEC = {"preset": "all", "scale": 0.05, "aqn": {"schedule": "constant", "sigma_start": 0.01}}


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    for name in ("CUDA_VISIBLE_DEVICES", "HETERO_NOISE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Starts a run with these words at the end of its command line, as far as Ray."""
    (tmp_path / "model").mkdir()
    shape = {
        "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 259,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    }  # fmt: skip
    (tmp_path / "model" / "config.json").write_text(json.dumps(shape))

    def go(*words: str, spec: dict[str, Any] | None = SPEC, validation: str = "noisy") -> None:
        from hydra import compose, initialize_config_module
        from verl.utils import config as verl_config

        run = MiniatureRun(
            model=tmp_path / "model",
            train_files=tmp_path / "train.parquet",
            val_files=tmp_path / "test.parquet",
            output=tmp_path / "run",
            steps=4,
            test_every=2,
            noise=None if spec is None else NoiseConfig.parse(spec),
            validation=validation,  # type: ignore[arg-type]
            overrides=words,
        )
        with initialize_config_module(version_base=None, config_module="verl.trainer.config"):
            made = compose("ppo_trainer", overrides=list(run.words))
        verl_config.validate_config(made, use_reference_policy=False, use_critic=False)

    return go


def test_a_plain_run_starts(start: Any) -> None:
    start()
    start(spec=None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("trainer.v1.trainer_mode=colocate_async",), "in flight during validation"),
        (("actor_rollout_ref.model.use_fused_kernels=True",), "exclude lm_head"),
        (("actor_rollout_ref.model.lora.rank=16",), "Set lora_rank alone"),
        (
            ("actor_rollout_ref.model.lora_rank=16", "actor_rollout_ref.model.lora.merge=true"),
            "Set lora.merge=False",
        ),
        (("+actor_rollout_ref.rollout.custom.hetero_run.realised_every=-1",), "realised_every"),
    ],
)
def test_a_command_line_that_would_lose_noise_is_refused(
    start: Any, words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        start(*words)


def test_the_same_words_without_what_they_would_lose_are_fine(start: Any) -> None:
    start("trainer.v1.trainer_mode=colocate_async", "trainer.test_freq=-1")
    start("actor_rollout_ref.model.use_fused_kernels=True", spec={"preset": "rmsnorm"})
    start("actor_rollout_ref.model.lora_rank=16", spec=None)
    start("actor_rollout_ref.model.lora_rank=16")
    start("+actor_rollout_ref.rollout.custom.hetero_run.realised_every=0")


def test_tomorrows_resume_with_another_seed_is_refused(start: Any, tmp_path: Path) -> None:
    from hetero_plugin.verl import resume
    from hetero_plugin.verl.settings import RunNoise, RunOptions

    folder = tmp_path / "run" / "checkpoints"
    resume.write(folder / "global_step_2", RunNoise(NoiseConfig.parse(SPEC), RunOptions()))
    (folder / "latest_checkpointed_iteration.txt").write_text("2")
    resumes = "trainer.resume_mode=auto"
    start(resumes)
    with pytest.raises(ConfigError, match=r"spec\.seed: 0 then, 1 now"):
        start(resumes, spec={**SPEC, "seed": 1})
    with pytest.raises(ConfigError, match="was trained with noise"):
        start(resumes, spec=None)
    start(spec={**SPEC, "seed": 1})  # a new run


def test_a_merge_into_its_own_base_leaves_the_base(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    base, actor = tmp_path / "base", tmp_path / "global_step_2" / "actor"
    base.mkdir()
    actor.mkdir(parents=True)
    save_file({"w": torch.zeros(2)}, base / "model.safetensors")
    (base / "config.json").write_text("{}")
    torch.save({"w": torch.ones(2)}, actor / "model_world_size_1_rank_0.pt")
    for target in (base, tmp_path, actor.parent):
        with pytest.raises(CheckpointError, match="overlaps with"):
            merge(actor, base, target)
    assert sorted(os.listdir(base)) == ["config.json", "model.safetensors"]
    results = tmp_path / "results"
    results.mkdir()
    (results / "eval.json").write_text("{}")
    with pytest.raises(CheckpointError, match="did not write there"):
        merge(actor, base, results)
    assert merge(actor, base, tmp_path / "merged").is_dir()


def test_metrics_are_there_after_a_second_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl.utils.tracking import Tracking

    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "metrics.jsonl"))
    for step in (1, 2):
        Tracking("study", "arm", default_backend=["file"]).log({"a": 1.0}, step)
    lines = {path.name: path.read_text() for path in tmp_path.glob("*.jsonl")}
    assert {name: json.loads(text)["step"] for name, text in lines.items()} == {
        "metrics-1.jsonl": 1,
        "metrics.jsonl": 2,
    }
