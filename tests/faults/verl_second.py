"""Faults of a verl run that need no engine: refused, or told apart, before and beside training."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.verl import checkpoint, kept, realised, resume
from hetero_plugin.verl.launch import LaunchError, MiniatureRun, execute
from hetero_plugin.verl.settings import RunNoise, RunOptions
from tests.faults.registry import fault, noticed, refused

AQN = {"schedule": "constant", "sigma_start": 0.01}
SPEC: dict[str, Any] = {"scale": 0.05, "targets": ["linear"], "aqn": AQN}
SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
}


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _noise(**options: Any) -> RunNoise:
    return RunNoise(NoiseConfig.parse(SPEC), RunOptions(**options))


def _checked(spec: dict[str, Any], words: tuple[str, ...], **changes: Any) -> str:
    """How the driver's checks refuse verl's configuration with these changes."""
    from omegaconf import OmegaConf

    from hetero_plugin.verl import preflight

    with _folder() as folder, redirect_stdout(StringIO()):
        (folder / "config.json").write_text(json.dumps(SHAPE))
        rollout = {"name": "vllm", "quantization": "hetero_noise"}
        custom = {"hetero_noise": spec, "hetero_run": {"validation": "noisy"}}
        config = OmegaConf.create(
            {
                "actor_rollout_ref": {
                    "model": {"path": str(folder)},
                    "actor": {"strategy": "fsdp2"},
                    "rollout": {**rollout, "custom": custom},
                },
                "trainer": {"v1": {"trainer_mode": "sync"}, "test_freq": 5},
            }
        )
        for key, value in changes.items():
            OmegaConf.update(config, key.replace("__", "."), value)
        return refused(lambda: preflight.check(config), *words, kind=ConfigError)


@fault(
    "AQN of training rollouts that are in flight while a validation switches it off",
    "a registered trainer mode of somebody else's, not verl's sync, with AQN and validations",
    "ConfigError before a process starts",
    by="error",
    engine="core",
)
def validation_beside_rollouts_in_flight() -> str:
    words = ("my_async", "in flight", "test_freq=-1")
    return _checked(SPEC, words, trainer__v1__trainer_mode="my_async")


@fault(
    "error of the head on the way back, where log-probabilities come from a fused kernel",
    "`actor.use_fused_kernels` with a rule that acts backward alone",
    "ConfigError before a process starts",
    by="error",
    engine="core",
)
def fused_kernels_round_a_backward_rule() -> str:
    spec = {"scale": 0.05, "targets": ["lm_head"], "direction": "backward"}
    change = {"actor_rollout_ref__actor__use_fused_kernels": True}
    return _checked(spec, ("actor.use_fused_kernels=True", "lm_head"), **change)


@fault(
    "the policy that one starts from: verl loads its adapter only where a rank is given",
    "a trained adapter to go on from (`model.lora_adapter_path`), with no rank given",
    "ConfigError before a process starts",
    by="error",
    engine="core",
)
def adapter_in_a_verl_run() -> str:
    change = {"actor_rollout_ref__model__lora_adapter_path": "runs/adapter"}
    return _checked(SPEC, ("lora_adapter_path", "without lora_rank verl never loads it"), **change)


def _resumed(then: RunNoise | None, now: RunNoise | None, *words: str) -> str:
    with _folder() as folder:
        resume.write(folder / "global_step_3", then)
        trainer = {"resume_mode": "resume_path", "resume_from_path": f"{folder}/global_step_3"}
        return refused(lambda: resume.check(trainer, now), *words, kind=ConfigError)


@fault(
    "the noise that a checkpoint was trained under: AQN in the actor comes in half way",
    "a run resumes with the same specification and another `actor_aqn`",
    "ConfigError that names what differs",
    by="error",
    engine="core",
)
def resumed_with_aqn_in_the_actor() -> str:
    return _resumed(_noise(), _noise(actor_aqn=True), "actor_aqn False then, True now")


@fault(
    "noise, from the middle of training on",
    "a noisy run's checkpoint is resumed by a command line without quantization",
    "ConfigError",
    by="error",
    engine="core",
)
def noisy_checkpoint_resumed_clean() -> str:
    return _resumed(_noise(), None, "was trained with noise", "this run is clean")


@fault(
    "the metrics of an earlier run of the same name",
    "verl's file logger, at the place that it chooses itself, is opened twice",
    "the first file is beside the second",
    by="values",
    engine="core",
)
def metrics_written_twice() -> str:
    import verl.utils.tracking as tracking

    from hetero_plugin.verl.patches import patch_file_logger

    patch_file_logger(tracking)
    before = {name: os.environ.pop(name, None) for name in ("VERL_FILE_LOGGER_PATH", ROOT)}
    try:
        with _folder() as folder, redirect_stdout(StringIO()):
            os.environ[ROOT] = str(folder)
            for step in (1, 2):
                logger = tracking.FileLogger("study", "arm")
                logger.log({}, step)
                logger.finish()
            lines = {path.name: json.loads(path.read_text()) for path in folder.rglob("*.jsonl")}
    finally:
        os.environ.pop(ROOT, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})
    found = {name: line["step"] for name, line in lines.items()}
    return noticed(found == {"arm-1.jsonl": 1, "arm.jsonl": 2}, str(found))


ROOT = "VERL_FILE_LOGGER_ROOT"


@fault(
    "the proof of noise: a run without one shows that of the run before it",
    "a second run into one folder ends well and attests nothing",
    "LaunchError: it left no attestation of its own",
    by="error",
    engine="core",
)
def attestation_of_an_earlier_run() -> str:
    from hetero_plugin.verl import launch

    with _folder() as folder:
        run = MiniatureRun(
            model=folder, train_files=folder, val_files=folder, output=folder / "run", steps=1,
            noise=NoiseConfig.parse(SPEC), overrides=("trainer.resume_mode=auto",),
        )  # fmt: skip
        run.checkpoint.mkdir(parents=True)
        for name in ("start-step0", "end-step1"):
            (run.checkpoints / f"attestation-{name}.json").write_text('{"passed": true}')
        program = f"open({str(run.metrics)!r}, 'w').write('{{\"step\": 1, \"data\": {{}}}}\\n')"
        original = launch.command
        launch.command = lambda _: [sys.executable, "-c", program]
        try:
            words = ("no passing attestation",)
            return refused(lambda: execute(run, timeout=60), *words, kind=LaunchError)[:200]
        finally:
            launch.command = original


@fault(
    "a data-parallel engine that stayed at the old step, behind the first that moved",
    "the second of two engines answers with another step",
    "RanksDisagree: ranks and values",
    by="error",
    engine="core",
)
def data_parallel_engine_left_behind() -> str:
    from hetero_plugin.verl import ranks
    from hetero_plugin.vllm.client.calls import RanksDisagree

    async def ask(*_: Any, engine: int) -> list[dict[str, Any]]:
        return [{"noisy": True, "step": 7 - engine}]

    core = SimpleNamespace(core_engines=[0, 1], _call_utility_async=ask)
    found = asyncio.run(ranks.call(SimpleNamespace(engine_core=core), "hetero_noise_step"))
    replies = [("rollout replica 0", found, 2)]
    words = ("of 2 ranks, 1", "7", "6")
    return refused(lambda: ranks.compare("hetero_noise_step", replies), *words, kind=RanksDisagree)


@fault(
    "half of a replica that spans two nodes: nobody asked its ranks",
    "the first node's engine answers for its own two ranks of four",
    "ConfigError: how many answered",
    by="error",
    engine="core",
)
def ranks_of_a_further_node_not_asked() -> str:
    from hetero_plugin.verl import ranks

    replies = [("rollout replica 1", [{"noisy": True}] * 2, 4)]
    words = ("2 of the 4 ranks", "replica 1")
    return refused(lambda: ranks.compare("hetero_noise_status", replies), *words, kind=ConfigError)


@fault(
    "the memory for training: copies of a whole gradient, made to measure its error",
    "a transposed bf16 gradient of 4,500 x 151,936 elements on no device, by shape alone",
    "a sample within the stated bound, and no copy of the rest",
    by="values",
    engine="core",
)
def realised_error_of_a_large_gradient() -> str:
    gradient = torch.empty(151_936, 4_500, dtype=torch.bfloat16, device="meta").t()
    taken = realised.sample(gradient)
    rows, columns = taken.shape
    words = f"{rows} rows of {columns}, {taken.numel()} of {gradient.numel()} elements"
    return noticed(0 < taken.numel() <= realised.ELEMENTS and columns == 151_936, words)


@fault(
    "a model that lies where a merge is to go",
    "the target is a parent of the base, by way of a link to another folder in it",
    "CheckpointError, and everything is as it was",
    by="error",
    engine="core",
)
def merge_over_a_parent_through_a_link() -> str:
    with _folder() as folder:
        base, actor = folder / "models" / "base", folder / "actor"
        for made in (base, actor, folder / "models" / "other"):
            made.mkdir(parents=True)
        (base / "config.json").write_text("{}")
        (folder / "way").symlink_to(folder / "models" / "other")
        target = folder / "way" / ".."  # is `models`, and not the folder that `way` lies in
        words = refused(
            lambda: checkpoint.merge(actor, base, target),
            "overlaps with",
            kind=checkpoint.CheckpointError,
        )
        return noticed((base / "config.json").is_file(), words)


@fault(
    "results that somebody put beside a merged model",
    "a folder that a merge wrote is merged into again, with a file added since",
    "KeptError that names the file, which stays",
    by="error",
    engine="core",
)
def merge_over_added_results() -> str:
    with _folder() as folder:
        target = folder / "model"
        with kept.new_folder(target, []) as made:
            (made / "weights").write_text("")
        (target / "eval.json").write_text("{}")
        words = refused(
            lambda: kept.check_target(target, []), "eval.json", "not replaced", kind=kept.KeptError
        )
        return noticed((target / "eval.json").is_file(), words)


class _Call:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch mark",)


@fault(
    "the machine: a checkpoint's pickle runs a program",
    "an optimiser's state of somebody else's under the name of a rank's weights, a call inside it",
    "CheckpointError, and nothing ran",
    by="error",
    engine="core",
)
def checkpoint_that_runs_a_program() -> str:
    with _folder() as folder:
        state = {"state": {0: {"step": _Call()}}, "weight": torch.zeros(2)}
        torch.save(state, folder / "model_world_size_1_rank_0.pt")
        return refused(
            lambda: checkpoint.read_sharded(folder),
            "can't be read as tensors alone",
            kind=checkpoint.CheckpointError,
        )[:200]
