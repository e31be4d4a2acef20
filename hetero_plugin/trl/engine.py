"""vLLM inside a TRL trainer: an engine with the model's spec, followed step by step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hetero_plugin.config import METHOD, ConfigError, NoiseConfig
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm import client

__all__ = ["ColocatedEngine", "noisy_engines"]


@contextmanager
def noisy_engines(spec: NoiseConfig) -> Iterator[None]:
    """Inside, engines that TRL makes have a spec.

    Patches the name ``LLM`` in trl.generation.vllm_generation, because VLLMGeneration passes a
    fixed list of arguments to it, and no quantization that a trainer could name. Where TRL has no
    vLLM, or makes its engine elsewhere, nothing is patched, and `ColocatedEngine` refuses what
    comes of it.
    """
    from trl.generation import vllm_generation

    module: Any = vllm_generation
    original: Any = getattr(module, "LLM", None)
    if original is None:
        yield
        return

    @functools.wraps(original)
    def noisy(*args: Any, **kwargs: Any) -> Any:
        kwargs["quantization"] = METHOD
        kwargs["additional_config"] = {
            **(kwargs.get("additional_config") or {}),
            METHOD: spec.model_dump(mode="json"),
        }
        return original(*args, **kwargs)

    module.LLM = noisy
    try:
        yield
    finally:
        module.LLM = original


class ColocatedEngine:
    """The engine of a trainer; tells it the step before each generation, and reads it back.

    Every rank answers: those of the engine, and those of the engines of the other training
    processes, so every process makes the same calls. With ranks that differ, no process goes on.

    Raises:
        ConfigError: it is a server, or it is not noisy by the spec of the model.
        RanksDisagree: ranks differ in their noise.
    """

    def __init__(self, generation: Any, state: NoiseState) -> None:
        if generation.mode != "colocate":
            raise ConfigError(
                f"vllm_mode={generation.mode!r}: TRL syncs weights to a server by NCCL, with the "
                "server's own noise out of this trainer's reach; use vllm_mode='colocate'"
            )
        self.llm: Any = generation.llm
        self.state = state
        self.status: dict[str, Any] = {}
        """What the engine said last."""
        self._check(self._call("status"))

    def rollout(self, step: int) -> None:
        """Noise and AQN of a training step, for the completions to train on."""
        if self.status.get("enabled") is False:
            self._call("set", enabled=True)
        self._check(self._call("step", step=step, aqn=True), step=step, enabled=True)

    def evaluate(self, step: int, *, noisy: bool) -> None:
        """An evaluation: no AQN, and error or none."""
        status = self._call("step", step=step, aqn=False)
        if self.state.config.aqn is not None:
            status = self._call("aqn", off=True)
        if self.state.config.rules:
            status = self._call("set", enabled=noisy)
            self._check(status, enabled=noisy)

    def _call(self, name: str, **arguments: Any) -> dict[str, Any]:
        method = f"hetero_noise_{name}"
        self.status = client.agreed(method, _everybodys(self.llm, method, arguments))
        return self.status

    def _check(
        self, status: dict[str, Any], step: int | None = None, enabled: bool | None = None
    ) -> None:
        wanted: dict[str, Any] = {"noisy": True, "fingerprint": self.state.fingerprint}
        if enabled is not None:
            wanted["enabled"] = enabled
        if step is not None:
            wanted["step"] = step
            if self.state.config.aqn is not None:
                wanted["sigma"] = self.state.config.aqn.sigma(step)
        wrong = {key: status.get(key) for key, value in wanted.items() if status.get(key) != value}
        if wrong:
            raise ConfigError(
                f"the vLLM engine of this trainer says {wrong}, and should say "
                f"{ {key: wanted[key] for key in wrong} }: its completions would not have the "
                "noise of the model's spec"
            )


def _everybodys(llm: Any, method: str, arguments: dict[str, Any]) -> list[Any]:
    """A worker call; the answers of all training processes' engines, in every one of them.

    Each process has an engine of its own, which asks the worker in that process alone: ranks of a
    tensor-parallel group too (vLLM's external launcher).
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return client.ranks(llm, method, **arguments)
    try:
        mine: list[Any] | str = client.ranks(llm, method, **arguments)
    except Exception as error:  # or the other processes would wait for this one's answer
        mine = f"{type(error).__name__}: {error}"
    everybodys: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everybodys, mine)
    for rank, answers in enumerate(everybodys):
        if isinstance(answers, str):
            raise client.RanksDisagree(f"{method}: training process {rank}: {answers}")
    return [answer for answers in everybodys for answer in answers]
