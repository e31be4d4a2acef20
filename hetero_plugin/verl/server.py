"""verl's vLLM server with ``rollout.quantization=hetero_noise``.

Two things verl's own server does not do: it knows a fixed list of quantization methods, and it
drops what ``collective_rpc`` returns, so that nobody could ask a worker what it is doing.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout.utils import (
    VLLM_LORA_INT_ID,
    VLLM_LORA_NAME,
    VLLM_LORA_PATH,
)
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from vllm.lora.request import LoRARequest

from hetero_plugin.config import METHOD, ConfigError, NoiseConfig
from hetero_plugin.verl import ranks
from hetero_plugin.verl.attestation import attest_rollout
from hetero_plugin.verl.settings import RunNoise, resolve_worker, unique_job_id


def with_noise(engine_kwargs: dict[str, Any], noise: RunNoise) -> None:
    """Adds the specification to ``additional_config`` in place.

    Raises:
        ConfigError: a different one is already there.
    """
    additional = dict(engine_kwargs.get("additional_config") or {})
    given = additional.get(METHOD)
    if given is not None:
        other = NoiseConfig.parse(given)
        if other.fingerprint != noise.config.fingerprint:
            raise ConfigError(
                "rollout.engine_kwargs.vllm.additional_config.hetero_noise has fingerprint "
                f"{other.fingerprint}, the run's specification has {noise.config.fingerprint}; "
                "give one of the two."
            )
    additional[METHOD] = noise.config.model_dump(mode="json")
    engine_kwargs["additional_config"] = additional


class HeteroHttpServer(vLLMHttpServer):
    """verl's server actor; in a clean run it behaves as verl's own."""

    _noise: RunNoise | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Read by the vLLM workers, which are started after this; see unique_job_id.
        os.environ["VERL_RAY_JOB_ID"] = unique_job_id()

    def _validate_configs(self) -> None:
        super()._validate_configs()
        self._noise = resolve_worker(self.config, f"rollout server {type(self).__name__}")

    def _preprocess_engine_kwargs(self, engine_kwargs: dict[str, Any]) -> None:
        super()._preprocess_engine_kwargs(engine_kwargs)
        if self._noise is not None:
            with_noise(engine_kwargs, self._noise)

    def _apply_quantization(self) -> tuple[str | None, dict[str, Any]]:
        if self._noise is None:
            return super()._apply_quantization()
        if (getattr(self.config, "qat", None) or {}).get("enable", False):
            raise ConfigError(
                f"rollout.qat.enable=True and rollout.quantization={METHOD} exclude each other."
            )
        return METHOD, {}

    async def launch_server(self, *args: Any, **kwargs: Any) -> None:
        await super().launch_server(*args, **kwargs)
        if self.node_rank != 0:
            return
        statuses = await self.hetero_rpc("hetero_noise_status")
        for rank, status in enumerate(statuses):
            verify_status(status, self._noise, f"rollout worker {self.replica_rank}.{rank}")
        replica = f"rollout replica {self.replica_rank}"
        ranks.compare("hetero_noise_status", [(replica, statuses, self.replica_world_size)])

    async def hetero_rpc(
        self, method: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> list[Any]:
        """Calls ``method`` on every vLLM worker of this replica; one result per worker.

        [] from the server of a further node: it has no engine, and the first node's asks its ranks.
        """
        if self.node_rank != 0:
            return []
        return await ranks.call(self.engine, method, args, kwargs)

    async def hetero_adapter(self) -> bool:
        """Whether rollouts go through a LoRA adapter, which is then loaded in every worker.

        verl asks for each request whether the adapter is there, and samples from the base if it is
        not, without a word: the policy would not be the one that is trained.

        Raises:
            ConfigError: a LoRA run, and a worker does not have the adapter.
        """
        if not self.lora_as_adapter or self.node_rank != 0:
            return False
        for rank, loaded in enumerate(await self.hetero_rpc("list_loras")):
            check_loaded(loaded, f"rollout worker {self.replica_rank}.{rank}")
        return True

    async def hetero_attest(self) -> list[dict[str, Any]]:
        """Attestations of this replica, one a data-parallel engine; no request may run meanwhile.

        Through the adapter in a LoRA run, as rollouts are. [] from the server of a further node.
        """
        if self._noise is None:
            raise ConfigError("hetero_attest: this is a clean run")
        if self.node_rank != 0:
            return []
        adapter = None
        if await self.hetero_adapter():
            adapter = LoRARequest(VLLM_LORA_NAME, VLLM_LORA_INT_ID, VLLM_LORA_PATH)
        engines = len(ranks.data_parallel(self.engine))
        if engines == 1:
            return [await attest_rollout(self.engine, self._noise, adapter)]
        one_by_one = [ranks.OneEngine(self.engine, rank) for rank in range(engines)]
        return [await attest_rollout(one, self._noise, adapter) for one in one_by_one]


def check_loaded(loaded: Any, process: str) -> None:
    """Refuses a worker among whose adapters (``list_loras``) verl's is not.

    Raises:
        ConfigError: names the process, and what it has.
    """
    if not isinstance(loaded, list | tuple | set | frozenset) or VLLM_LORA_INT_ID not in loaded:
        raise ConfigError(
            f"{process} has no adapter {VLLM_LORA_INT_ID} after a weight sync (it has {loaded!r}), "
            "so its rollouts would be those of the base, and not of the policy that is trained"
        )


def verify_status(status: Any, noise: RunNoise | None, process: str) -> None:
    """Refuses a worker that is not noisy as specified, or noisy in a clean run; says which it is.

    Raises:
        ConfigError: no status; noise in a clean run; no noisy sites or another specification.
    """
    if not isinstance(status, dict):
        raise ConfigError(f"{process} gave no hetero_noise status: {status!r}")
    if noise is None:
        if status.get("noisy"):
            raise ConfigError(f"{process} is noisy in a clean run: {status!r}")
        print(f"hetero_noise: {process}: clean", flush=True)
        return
    silent = not any((status.get("sites") or {}).values())
    # Without rules AQN alone was asked for, and there are no sites.
    if not status.get("noisy") or (silent and noise.config.rules):
        raise ConfigError(
            f"{process}: quantization={METHOD} but the worker reports no noisy site: {status!r}"
        )
    if status.get("fingerprint") != noise.config.fingerprint:
        raise ConfigError(
            f"{process} does not run the specification asked for, {noise.config.fingerprint}: "
            f"{status!r}"
        )


class HeteroVLLMReplica(vLLMReplica):
    """verl's replica, with the server above for the policy.

    Reward models and teachers are judges of the policy, not run on its hardware: verl's server.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not (self.is_reward_model or self.is_teacher_model):
            self.server_class = ray.remote(HeteroHttpServer)
