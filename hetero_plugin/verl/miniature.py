"""A small verl run on CPU cores, and the settings that verl needs without an accelerator.

One place knows them; the demonstration, studies and the miniature recipes all come here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hetero_plugin.config import ENVIRONMENT, NoiseConfig
from hetero_plugin.verl.begun import SEEDED

__all__ = ["MiniatureRun", "hydra"]


class MiniatureRun(BaseModel):
    """A GRPO run of a small Qwen2 with verl on CPU. Paths are made absolute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    """Folder of the Hugging Face checkpoint that training starts from."""
    train_files: Path
    val_files: Path
    output: Path
    """Folder of this run: log, metrics and checkpoint."""
    name: str = "grpo"
    steps: int = Field(ge=1)
    noise: NoiseConfig | None = None
    """The specification; None trains clean."""
    validation: Literal["both", "clean", "noisy"] = "both"
    seed: int = 0
    batch: int = Field(default=16, ge=1)
    """Prompts a step."""
    samples: int = Field(default=8, ge=2)
    """Answers a prompt: the group that GRPO compares."""
    mini_batch: int | None = None
    """Prompts an update; None: all of the batch, one update a step."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Sequences a forward pass of a rank's actor; None: the most, up to 128, that divide what it
    has of an update."""
    learning_rate: float = Field(default=1e-4, gt=0)
    entropy: float = 0.0
    temperature: float = Field(default=1.0, gt=0)
    prompt_length: int = Field(default=16, ge=1)
    response_length: int = Field(default=8, ge=1)
    test_every: int = Field(default=-1)
    """Steps between validations; -1: none but the last step's is not made either."""
    test_before: bool = False
    save_every: int | None = None
    """Steps between checkpoints; None: one, after the last step."""
    resume: bool = False
    """Goes on from the last checkpoint in the folder; it holds the optimizer's state too then."""
    enforce_eager: bool = False
    dtype: str = "float32"
    """Of the rollout's weights and arithmetic."""
    mixed_precision: Literal["float32", "bfloat16"] = "float32"
    """What the actor computes in, forward and backward; its weights, their gradients' sums over
    ranks and the optimizer are float32."""
    gpus: int = Field(default=1, ge=1)
    """Ranks that the actor is sharded over: processes, which share the cores."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Ranks that one rollout engine is split over; gpus / tensor_parallel engines share a batch."""
    threads: int = Field(default=2, ge=1)
    max_sequences: int = Field(default=128, ge=1)
    cache: Path | None = None
    """Folder of the compile cache that runs share; None: vLLM's own place."""
    overrides: tuple[str, ...] = ()
    """Further Hydra overrides, last and so strongest."""

    @model_validator(mode="after")
    def _check_batches(self) -> MiniatureRun:
        if self.batch % self.prompts_an_update:
            raise ValueError(
                f"mini_batch={self.mini_batch} does not divide batch={self.batch} (prompts a step)"
            )
        if self.gpus % self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel={self.tensor_parallel} does not divide gpus={self.gpus}"
            )
        update = self.prompts_an_update * self.samples
        if update % self.gpus:
            raise ValueError(f"gpus={self.gpus} does not divide mini_batch x samples = {update}")
        if self._sequences_a_rank % self.sequences_a_pass:
            raise ValueError(
                f"micro_batch={self.micro_batch} does not divide mini_batch x samples / gpus = "
                f"{self._sequences_a_rank} sequences an update"
            )
        return self

    @property
    def prompts_an_update(self) -> int:
        return self.mini_batch or self.batch

    @property
    def _sequences_a_rank(self) -> int:
        return self.prompts_an_update * self.samples // self.gpus

    @property
    def sequences_a_pass(self) -> int:
        most = self._sequences_a_rank
        largest = max(size for size in range(1, min(most, 128) + 1) if most % size == 0)
        return self.micro_batch or largest

    @property
    def log(self) -> Path:
        return self.output.absolute() / "train.log"

    @property
    def metrics(self) -> Path:
        """JSON lines ``{"step": n, "data": {...}}`` as verl's file logger writes them."""
        return self.output.absolute() / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints and attestations."""
        return self.output.absolute() / "checkpoints"

    @property
    def checkpoint(self) -> Path:
        """Folder of the last step's actor checkpoint."""
        return self.checkpoints / f"global_step_{self.steps}" / "actor"

    @property
    def resumes(self) -> bool:
        """Whether verl is asked to go on from a checkpoint."""
        asked = [word.lstrip("+") for word in self.words]
        modes = [word.partition("=")[2] for word in asked if word.startswith("trainer.resume_mode")]
        return modes[-1].strip("'\"") != "disable"

    @property
    def words(self) -> tuple[str, ...]:
        """Hydra overrides of ``verl.trainer.main_ppo`` for this run."""
        settings = _trainer(self) | _data(self) | _actor(self) | _rollout(self) | _SURROUNDINGS
        if self.noise is not None:
            settings |= _noise(self, self.noise)
        words = [f"{key}={hydra(value)}" for key, value in settings.items()]
        computes = {"float32": "fp32", "bfloat16": "bf16"}[self.mixed_precision]
        dtypes = f"{{param_dtype:{computes},reduce_dtype:fp32,buffer_dtype:fp32}}"
        words.append(f"+{_ACTOR}.fsdp_config.mixed_precision={dtypes}")
        return (*words, *self.overrides)

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The process environment: ``base`` (default: this process's) with what the run needs."""
        env = dict(os.environ if base is None else base)
        # Empty, it would hide the logical GPU; a spec inherited from the shell is not this run's.
        env.pop("CUDA_VISIBLE_DEVICES", None)
        env.pop(ENVIRONMENT, None)
        env.update(
            VERL_PLATFORM="cpu",
            VERL_FILE_LOGGER_PATH=str(self.metrics),
            OMP_NUM_THREADS=str(self.threads),
            VLLM_CPU_KVCACHE_SPACE="1",  # GiB
            VLLM_CPU_OMP_THREADS_BIND="nobind",  # all processes share the cores
            VLLM_NO_USAGE_STATS="1",
            # verl switches vLLM's compile cache off unless this is set; runs here share one cache.
            VLLM_DISABLE_COMPILE_CACHE="0",
            HF_HUB_OFFLINE="1",
            TOKENIZERS_PARALLELISM="false",
            DO_NOT_TRACK="1",
            RAY_USAGE_STATS_ENABLED="0",
            RAY_DEDUP_LOGS="0",
            HYDRA_FULL_ERROR="1",
            PYTHONUNBUFFERED="1",
        )
        if self.cache is not None:
            env["VLLM_CACHE_ROOT"] = str(self.cache.absolute() / "vllm")
            env["TORCHINDUCTOR_CACHE_DIR"] = str(self.cache.absolute() / "inductor")
        return env


# What Hydra takes for text without quotes: a command that is printed stays readable.
_WORD = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_NOT_TEXT = ("true", "false", "null", "nan", "inf")


def hydra(value: Any) -> str:
    """A value in Hydra's override grammar (JSON is not: its keys may not be quoted there)."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{hydra(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(hydra(item) for item in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if _WORD.fullmatch(str(value)) and str(value).lower() not in _NOT_TEXT:
        return str(value)
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


_MODEL, _ACTOR, _ROLLOUT = (f"actor_rollout_ref.{name}" for name in ("model", "actor", "rollout"))
_SURROUNDINGS: dict[str, Any] = {
    "reward.custom_reward_function.path": "pkg://hetero_plugin.verl.reward",
    "reward.custom_reward_function.name": "compute_score",
    "reward.num_workers": 1,
    "ray_kwargs.ray_init.num_cpus": 16,  # logical: the workers share what cores there are
    "+ray_kwargs.ray_init.address": "local",  # not a cluster that happens to run on this machine
    "+ray_kwargs.ray_init.include_dashboard": False,
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
}
"""The same for every run: who judges, and how much of Ray and its storage is started."""


_ALL = ["model", "optimizer", "extra"]
"""What a checkpoint can hold; extra: the learning rate's schedule and the random numbers."""


def _trainer(run: MiniatureRun) -> dict[str, Any]:
    return {
        "algorithm.adv_estimator": "grpo",
        "trainer.device": "cpu",
        "trainer.nnodes": 1,
        "trainer.n_gpus_per_node": run.gpus,
        "+ray_kwargs.ray_init.num_gpus": run.gpus,
        "trainer.logger": ["console", "file"],
        "trainer.project_name": "hetero_noise",
        "trainer.experiment_name": run.name,
        "trainer.total_training_steps": run.steps,
        "trainer.total_epochs": 1_000_000,  # the number of steps decides
        "trainer.save_freq": run.save_every or run.steps,
        "trainer.test_freq": run.test_every,
        "trainer.val_before_train": run.test_before,
        "trainer.default_local_dir": str(run.checkpoints),
        "trainer.resume_mode": "auto" if run.resume else "disable",
        "trainer.v1.sampler.custom_sampler.path": "pkg://hetero_plugin.verl.replay",
        "trainer.v1.sampler.custom_sampler.name": "FastReplayBuffer",
        "+trainer.v1.sampler.sampler_kwargs.poll_interval": 0.05,
    }


def _data(run: MiniatureRun) -> dict[str, Any]:
    return {
        "data.train_files": str(run.train_files.absolute()),
        "data.val_files": str(run.val_files.absolute()),
        "data.train_batch_size": run.batch,
        "data.max_prompt_length": run.prompt_length,
        "data.max_response_length": run.response_length,
        "data.dataloader_num_workers": 0,
        "data.filter_overlong_prompts": False,
        "data.seed": run.seed,
    }


def _actor(run: MiniatureRun) -> dict[str, Any]:
    return {
        f"{_MODEL}.path": str(run.model.absolute()),
        f"{_MODEL}.use_remove_padding": False,
        f"{_MODEL}.enable_gradient_checkpointing": False,
        f"+{_MODEL}.override_config.attn_implementation": "sdpa",
        f"{_ACTOR}.strategy": "fsdp2",  # FSDP1 rejects CPU modules
        f"{_ACTOR}.optim.lr": run.learning_rate,
        f"{_ACTOR}.ppo_mini_batch_size": run.prompts_an_update,
        f"{_ACTOR}.ppo_micro_batch_size_per_gpu": run.sequences_a_pass,
        f"{_ACTOR}.use_kl_loss": False,
        f"{_ACTOR}.entropy_coeff": run.entropy,
        f"{_ACTOR}.data_loader_seed": run.seed,
        f"{_ACTOR}.fsdp_config.use_torch_compile": False,
        f"{_ACTOR}.fsdp_config.model_dtype": "fp32",
        f"{_ACTOR}.fsdp_config.seed": run.seed,
        f"{_ACTOR}.checkpoint.save_contents": _ALL if run.resume else _ALL[:1],
    }


_ONE_PROCESS = {
    "+ray_kwargs.ray_init.runtime_env.env_vars.VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    f"+{_ROLLOUT}.engine_kwargs.vllm.distributed_executor_backend": "uni",
}
"""One process for engine and worker: with one rank there is nothing to spread, and a process less
to start. vLLM on CPU allows it only with this variable, which its asynchronous engine does not
otherwise read."""


def _rollout(run: MiniatureRun) -> dict[str, Any]:
    return {
        f"{_ROLLOUT}.name": "vllm",
        f"{_ROLLOUT}.n": run.samples,
        f"{_ROLLOUT}.temperature": run.temperature,
        f"{_ROLLOUT}.seed": run.seed,
        f"{_ROLLOUT}.tensor_model_parallel_size": run.tensor_parallel,
        f"{_ROLLOUT}.dtype": run.dtype,
        f"{_ROLLOUT}.enforce_eager": run.enforce_eager,
        **(_ONE_PROCESS if run.tensor_parallel == 1 else {}),
        f"{_ROLLOUT}.free_cache_engine": False,  # there is no device memory to give back
        f"+{_ROLLOUT}.enable_sleep_mode": False,
        f"{_ROLLOUT}.gpu_memory_utilization": 0.1,
        f"{_ROLLOUT}.max_model_len": run.prompt_length + run.response_length,
        f"{_ROLLOUT}.max_num_seqs": run.max_sequences,
        f"{_ROLLOUT}.max_num_batched_tokens": max(512, run.max_sequences * 4),
        f"{_ROLLOUT}.enable_chunked_prefill": False,  # see hetero_plugin.verl.sampling
        f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu": run.sequences_a_pass,
        f"{_ROLLOUT}.calculate_log_probs": True,
        f"{_ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes": 16,
        f"{_ROLLOUT}.agent.num_workers": 1,
        f"+{_ROLLOUT}.agent.agent_loop_manager_class": SEEDED,
    }


def _noise(run: MiniatureRun, noise: NoiseConfig) -> dict[str, Any]:
    return {
        f"{_ROLLOUT}.quantization": "hetero_noise",
        f"+{_ROLLOUT}.custom.hetero_noise": json.loads(noise.canonical),
        f"+{_ROLLOUT}.custom.hetero_run": {"validation": run.validation},
    }
