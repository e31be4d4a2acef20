"""vLLM inside a TRL trainer: an engine with the model's spec, followed step by step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hetero_plugin.config import METHOD, ConfigError, NoiseConfig
from hetero_plugin.state import NoiseState

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

    Raises:
        ConfigError: it is a server, or it is not noisy by the spec of the model.
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
        self._check(self._call("step", step=step, aqn=True), step=step)

    def evaluate(self, step: int, *, noisy: bool) -> None:
        """An evaluation: no AQN, and error or none."""
        self._call("step", step=step, aqn=False)
        if self.state.config.aqn is not None:
            self._call("aqn", off=True)
        if self.state.config.rules:
            self._call("set", enabled=noisy)

    def _call(self, name: str, **arguments: Any) -> dict[str, Any]:
        answers = self.llm.collective_rpc(f"hetero_noise_{name}", kwargs=arguments)
        self.status = answers[0]
        return self.status

    def _check(self, status: dict[str, Any], step: int | None = None) -> None:
        wanted: dict[str, Any] = {"noisy": True, "fingerprint": self.state.fingerprint}
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
