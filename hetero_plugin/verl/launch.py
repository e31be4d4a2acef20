"""Builds and runs the command line of a small verl run on CPU cores.

One place knows the settings that ``python -m verl.trainer.main_ppo`` needs without an
accelerator; the demonstration and the miniature recipes both come here.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hetero_plugin.config import ENVIRONMENT, NoiseConfig
from hetero_plugin.verl import group
from hetero_plugin.verl.kept import keep_beside
from hetero_plugin.verl.noderun import NodeRun


class LaunchError(RuntimeError):
    """A run that failed; the message ends with the log's last lines and where the rest is."""


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
    """Sequences a forward pass of the actor; None: the most, up to 128, that divide an update."""
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
    enforce_eager: bool = False
    dtype: str = "float32"
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
        update = self.prompts_an_update * self.samples
        if update % self.sequences_a_pass:
            raise ValueError(
                f"micro_batch={self.micro_batch} does not divide mini_batch x samples = {update} "
                "sequences an update"
            )
        return self

    @property
    def prompts_an_update(self) -> int:
        return self.mini_batch or self.batch

    @property
    def sequences_a_pass(self) -> int:
        update = self.prompts_an_update * self.samples
        largest = max(size for size in range(1, min(update, 128) + 1) if update % size == 0)
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
        """Whether the overrides ask verl to go on from a checkpoint."""
        asked = [word.lstrip("+") for word in self.overrides]
        modes = [word.partition("=")[2] for word in asked if word.startswith("trainer.resume_mode")]
        return bool(modes) and modes[-1].strip("'\"") != "disable"


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


def arguments(run: MiniatureRun) -> list[str]:
    """Hydra overrides of ``verl.trainer.main_ppo`` for this run."""
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    length = run.prompt_length + run.response_length
    full_precision = "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
    settings: dict[str, Any] = {
        "algorithm.adv_estimator": "grpo",
        "trainer.device": "cpu",
        "trainer.nnodes": 1,
        "trainer.n_gpus_per_node": 1,
        "trainer.logger": ["console", "file"],
        "trainer.project_name": "hetero_noise",
        "trainer.experiment_name": run.name,
        "trainer.total_training_steps": run.steps,
        "trainer.total_epochs": 1_000_000,  # the number of steps decides
        "trainer.save_freq": run.save_every or run.steps,
        "trainer.test_freq": run.test_every,
        "trainer.val_before_train": run.test_before,
        "trainer.default_local_dir": str(run.checkpoints),
        "trainer.resume_mode": "disable",
        "trainer.v1.sampler.custom_sampler.path": "pkg://hetero_plugin.verl.replay",
        "trainer.v1.sampler.custom_sampler.name": "FastReplayBuffer",
        "+trainer.v1.sampler.sampler_kwargs.poll_interval": 0.05,
        "data.train_files": str(run.train_files.absolute()),
        "data.val_files": str(run.val_files.absolute()),
        "data.train_batch_size": run.batch,
        "data.max_prompt_length": run.prompt_length,
        "data.max_response_length": run.response_length,
        "data.dataloader_num_workers": 0,
        "data.filter_overlong_prompts": False,
        "data.seed": run.seed,
        "actor_rollout_ref.model.path": str(run.model.absolute()),
        "actor_rollout_ref.model.use_remove_padding": False,
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
        f"{actor}.strategy": "fsdp2",  # FSDP1 rejects CPU modules
        f"{actor}.optim.lr": run.learning_rate,
        f"{actor}.ppo_mini_batch_size": run.prompts_an_update,
        f"{actor}.ppo_micro_batch_size_per_gpu": run.sequences_a_pass,
        f"{actor}.use_kl_loss": False,
        f"{actor}.entropy_coeff": run.entropy,
        f"{actor}.data_loader_seed": run.seed,
        f"{actor}.fsdp_config.use_torch_compile": False,
        f"{actor}.fsdp_config.model_dtype": "fp32",
        f"{actor}.fsdp_config.seed": run.seed,
        f"{actor}.checkpoint.save_contents": ["model"],
        f"{rollout}.name": "vllm",
        f"{rollout}.n": run.samples,
        f"{rollout}.temperature": run.temperature,
        f"{rollout}.seed": run.seed,
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.dtype": run.dtype,
        f"{rollout}.enforce_eager": run.enforce_eager,
        # One process for engine and worker: with one rank there is nothing to spread, and a process
        # less to start. vLLM on CPU allows it only with this variable, which its asynchronous
        # engine does not otherwise read.
        "+ray_kwargs.ray_init.runtime_env.env_vars.VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        f"+{rollout}.engine_kwargs.vllm.distributed_executor_backend": "uni",
        f"{rollout}.free_cache_engine": False,  # there is no device memory to give back
        f"+{rollout}.enable_sleep_mode": False,
        f"{rollout}.gpu_memory_utilization": 0.1,
        f"{rollout}.max_model_len": length,
        f"{rollout}.max_num_seqs": run.max_sequences,
        f"{rollout}.max_num_batched_tokens": max(512, run.max_sequences * 4),
        f"{rollout}.log_prob_micro_batch_size_per_gpu": run.sequences_a_pass,
        f"{rollout}.calculate_log_probs": True,
        f"{rollout}.checkpoint_engine.update_weights_bucket_megabytes": 16,
        f"{rollout}.agent.num_workers": 1,
        "reward.custom_reward_function.path": "pkg://hetero_plugin.verl.reward",
        "reward.custom_reward_function.name": "compute_score",
        "reward.num_workers": 1,
        "ray_kwargs.ray_init.num_cpus": 16,  # logical: the workers share what cores there are
        "+ray_kwargs.ray_init.num_gpus": 1,
        "+ray_kwargs.ray_init.include_dashboard": False,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
    }
    if run.noise is not None:
        settings[f"{rollout}.quantization"] = "hetero_noise"
        spec = json.loads(run.noise.canonical)
        settings[f"+{rollout}.custom.hetero_noise"] = spec
        settings[f"+{rollout}.custom.hetero_run"] = {"validation": run.validation}
    words = [f"{key}={hydra(value)}" for key, value in settings.items()]
    words.append(f"+{actor}.fsdp_config.mixed_precision={full_precision}")
    return [*words, *run.overrides]


def command(run: MiniatureRun | NodeRun) -> list[str]:
    """The command line, for ``subprocess`` (nothing in it needs a shell)."""
    words = list(run.words) if isinstance(run, NodeRun) else arguments(run)
    return [sys.executable, "-m", "verl.trainer.main_ppo", *words]


def environment(
    run: MiniatureRun | NodeRun, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The process environment: ``base`` (default: this process's) with what the run needs."""
    if isinstance(run, NodeRun):
        return run.environment(base)
    env = dict(os.environ if base is None else base)
    # Empty, it would hide the logical GPU; a spec inherited from the shell is not this run's.
    env.pop("CUDA_VISIBLE_DEVICES", None)
    env.pop(ENVIRONMENT, None)
    env.update(
        VERL_PLATFORM="cpu",
        VERL_FILE_LOGGER_PATH=str(run.metrics),
        OMP_NUM_THREADS=str(run.threads),
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
    if run.cache is not None:
        env["VLLM_CACHE_ROOT"] = str(run.cache.absolute() / "vllm")
        env["TORCHINDUCTOR_CACHE_DIR"] = str(run.cache.absolute() / "inductor")
    return env


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Complete lines of verl's metrics file, oldest first; [] while there is none."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


def _tail(path: Path, lines: int = 30) -> str:
    if not path.is_file():
        return "(no log was written)"
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()
    blamed = [line for line in text if re.search(r"(Error|Exception|hetero_noise)\b", line)]
    return "\n".join([*blamed[-8:], "...", *text[-lines:]])


def execute(
    run: MiniatureRun | NodeRun,
    on_progress: Callable[[int, dict[str, Any]], None] | None = None,
    *,
    timeout: float | None = None,
) -> list[dict[str, Any]]:
    """Runs it to its end and returns the metrics of every step.

    ``on_progress(step, data)`` is called for each line of metrics as it appears, step 0 being
    the validation before training. The output goes to ``run.log``. ``timeout`` is in seconds.
    On an interrupt the run and all its processes end with it. What an earlier run left in the
    folder is kept beside (``metrics-1.jsonl``, ``train-1.log``, ``checkpoints-1``), and is no part
    of this one; a run that resumes leaves the checkpoints where they are.

    Raises:
        LaunchError: the process failed, took too long, or left no checkpoint.
    """
    run.output.mkdir(parents=True, exist_ok=True)
    for path in (run.metrics, run.log, *(() if run.resumes else (run.checkpoints,))):
        keep_beside(path)
    before = set(run.checkpoints.glob("attestation-*.json"))
    deadline = None if timeout is None else time.monotonic() + timeout
    with run.log.open("w", encoding="utf-8") as log:
        log.write(f"# {shlex.join(command(run))}\n")
        log.flush()
        process = subprocess.Popen(
            command(run),
            env=environment(run),
            cwd=run.output,  # hydra writes its folder where the process runs
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        seen = 0
        try:
            while True:
                ended = process.poll() is not None
                rows = read_metrics(run.metrics)
                for row in rows[seen:]:
                    if on_progress is not None:
                        on_progress(int(row["step"]), row["data"])
                seen = len(rows)
                if ended:
                    break
                if deadline is not None and time.monotonic() > deadline:
                    raise LaunchError(
                        f"verl run {run.name!r} was stopped after {timeout:.0f} s; log: {run.log}\n"
                        f"{_tail(run.log)}"
                    )
                group.pause(0.5)
        finally:
            group.end(process, patience=10.0)
    if process.returncode != 0:
        raise LaunchError(
            f"verl run {run.name!r} failed (exit {process.returncode}); log: {run.log}\n"
            f"{_tail(run.log)}"
        )
    rows = read_metrics(run.metrics)
    trained = [row for row in rows if row["step"] > 0]
    if not trained or trained[-1]["step"] != run.steps or not run.checkpoint.is_dir():
        raise LaunchError(
            f"verl run {run.name!r} ended without its {run.steps} steps and their checkpoint "
            f"({run.checkpoint}); log: {run.log}\n{_tail(run.log)}"
        )
    if run.noise is not None:
        _check_attested(run, before)
    return rows


def _check_attested(run: MiniatureRun | NodeRun, before: set[Path]) -> None:
    """A noisy run has proved its noise, or it has not ended well; ``before``: of earlier runs."""
    for when in ("start", "end"):
        found = set(run.checkpoints.glob(f"attestation-{when}-step*.json")) - before
        records = [json.loads(path.read_text(encoding="utf-8")) for path in found]
        if not records or not all(record["passed"] for record in records):
            raise LaunchError(
                f"verl run {run.name!r} left no passing attestation of its {when}; log: {run.log}\n"
                f"{_tail(run.log)}"
            )
