"""verl's client of the vLLM server: after each weight sync, noise and AQN move to the new step.

verl's ``global_steps`` at a sync is the number of training steps finished, hence the index
(from 0) of the step whose rollouts the new weights serve. That index is the noise step, of the
rollout and of the actor, which lives in this process: the tokens of one training step meet the
same error when they are sampled, re-scored and trained on.

With LoRA a sync is that of the adapter (the base goes before the first). Noise and AQN's offsets
are no weights, so they move as they do otherwise.
"""

from __future__ import annotations

from typing import Any

import ray
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

from hetero_plugin.config import ConfigError
from hetero_plugin.verl import active, ranks
from hetero_plugin.verl.settings import RunNoise, resolve_worker, unique_job_id


class HeteroServerAdapter(ServerAdapter):
    """verl's adapter; in a clean run it behaves as verl's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        job = ray.get_runtime_context().get_job_id()
        self.zmq_handle = self.zmq_handle.replace(job, unique_job_id())
        process = f"rollout client of replica {self.replica_rank}"
        self._noise: RunNoise | None = resolve_worker(self.config, process)

    async def update_weights(  # type: ignore[override]
        self, weights: Any, global_steps: int | None = None, **kwargs: Any
    ) -> Any:
        result = await super().update_weights(weights, global_steps=global_steps, **kwargs)  # type: ignore[arg-type]
        if self._noise is not None and kwargs.get("peft_config") and kwargs.get("base_sync_done"):
            await self._adapter_is_loaded()
        # verl syncs without a number in the middle of a validation; the noise stays where it is.
        if self._noise is not None and global_steps is not None:
            await self._move_noise(int(global_steps))
        return result

    async def _adapter_is_loaded(self) -> None:
        """After a sync of the adapter alone; the first of a run has the base before it."""
        if self._ensure_server_handle() and not await self.server_handle.hetero_adapter.remote():
            raise ConfigError(
                f"rollout replica {self.replica_rank} was sent a LoRA adapter and serves none; set "
                "actor_rollout_ref.model.lora_rank alone"
            )

    async def _move_noise(self, step: int) -> None:
        active.set_actor_step(step)
        if not self._ensure_server_handle():
            return
        # The call also drops the prefix cache: its keys and values knew the old step's error.
        answers = await self.server_handle.hetero_rpc.remote(
            "hetero_noise_step", kwargs={"step": step}
        )
        replica = f"rollout replica {self.replica_rank}"
        wanted = self.config.tensor_model_parallel_size * self.config.data_parallel_size
        wanted *= self.config.pipeline_model_parallel_size
        for status in ranks.compare("hetero_noise_step", [(replica, answers, wanted)]):
            if status.get("step") != step:
                raise ConfigError(f"{replica} did not move to noise step {step}: {status!r}")
