"""Every sampled answer from a seed of its own: what a run samples follows from the run's seed.

vLLM draws for all requests of a batch from one stream, and which requests share a batch is a matter
of milliseconds: two runs of one seed differ from their first answer on, and a run that was killed
and resumed is not the run that went through. Here the seed of an answer is a function of the run's
seed, the step, the prompt and the answer's number among those to that prompt.

Small runs name it (``actor_rollout_ref.rollout.agent.agent_loop_manager_class=
hetero_plugin.verl.sampling.SeededAgentLoopManager``). On a GPU it costs time: vLLM draws request by
request then, and not with FlashInfer. Prompts have to be computed in one piece on a CPU
(``enable_chunked_prefill=false``), where vLLM can't take back a draw.

After a change by which a seed gives other answers `begun.SAMPLING` is raised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from hetero_plugin.verl.patches import expect_parameters

__all__ = ["SeededAgentLoopManager", "seed_of"]

if TYPE_CHECKING:
    from verl.experimental.agent_loop import AgentLoopWorker as _Worker
else:
    _Worker = AgentLoopWorkerTQ.__ray_metadata__.modified_class.__ray_actor_class__

expect_parameters(
    _Worker._run_agent_loop,
    "AgentLoopWorkerTQ._run_agent_loop",
    "self",
    "sampling_params",
    "trajectory",
)


def seed_of(seed: int, trajectory: Mapping[str, Any], prompt: Any, answer: int) -> int:
    """The seed of one answer: 63 bits.

    Args:
        seed: the run's.
        trajectory: what verl says of the request: ``step``, ``validate`` and ``sample_index``, the
            question's index in its file.
        prompt: the messages.
        answer: its number among the answers to this prompt.
    """
    words = [seed, int(trajectory["step"]), bool(trajectory["validate"])]
    text = json.dumps([*words, str(trajectory["sample_index"]), str(prompt), answer])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class SeededAgentLoopWorker(_Worker):
    """verl's worker, which asks for each answer under a seed of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Ray sends what is inherited by value, and verl's would look for a class that is not there.
        super().__init__(*args, **kwargs)

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **given: Any
    ) -> Any:
        run = int(self.rollout_config.seed)
        seed = seed_of(run, trajectory, given["raw_prompt"], int(given["session_id"]))
        seeded = {**sampling_params, "seed": seed}
        return await super()._run_agent_loop(seeded, trajectory, **given)


class SeededAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager, with the workers above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(SeededAgentLoopWorker)
