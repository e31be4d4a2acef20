"""verl's FSDP engine with hardware error in the actor, on CUDA and on CPU.

The model is wrapped between loading and FSDP, so what FSDP shards is the noisy model. Its
parameters and their names are those of the clean one. The reference policy (``forward_only``)
and the critic stay clean.

With LoRA, PEFT puts its layers around those of the wrapped model: error is on the output of a base
layer, before the adapter's product is added, as in vLLM. The reference policy is then this very
model with its adapter off, and so it is without error as well (``disable_adapter``).

Imported by ``patches.patch_engines`` alone, while verl's own engine module is being imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from hetero_plugin.config import ConfigError
from hetero_plugin.operator import record
from hetero_plugin.verl import active
from hetero_plugin.verl.realised import RealisedError, due
from hetero_plugin.verl.settings import RunNoise


class NoisyFSDPEngine(FSDPEngineWithLMHead):
    """verl's language-model engine; wraps the trained model when the run asks for noise."""

    _noise_state: Any = None
    _noisy_model: Any = None
    _measured_step: int | None = None
    _realised_every: int = 1

    def _build_module(self) -> Any:
        module = super()._build_module()
        noise = active.current()
        if noise is None or self.engine_config.forward_only:
            return module
        from hetero_plugin.hf import state_of, wrap

        with self._as_in_passes():
            module = wrap(module, noise.config)
        state = state_of(module)
        state.set_phase("train")
        self._noise_state, self._noisy_model = state, module
        self._realised_every = noise.options.realised_every
        active.add_actor(state, self._controller(noise, state))
        # Printed, not logged: verl sets log levels process by process, and this line must be seen.
        print(state.describe(f"verl actor rank {self.rank}"), flush=True)
        return module

    def _as_in_passes(self) -> AbstractContextManager[Any]:
        """Autocast to the dtype of the passes, which `computes_in` has once FSDP is there."""
        from verl.utils.torch_dtypes import PrecisionType

        given = getattr(self.engine_config, "mixed_precision", None) or {}
        dtype = PrecisionType.to_dtype(given.get("param_dtype", "bf16"))
        return nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype)

    @property
    def noise_state(self) -> Any:
        """The wrapped model's `NoiseState`; None in a clean run."""
        return self._noise_state

    @property
    def noisy_model(self) -> Any:
        """The wrapped model, beneath whatever shards it; None in a clean run."""
        return self._noisy_model

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """What verl computes the reference policy of a LoRA run under: no adapter, and no noise.

        verl asks for it around a whole batch (``infer_batch`` with ``no_lora_adapter``).
        """
        with super().disable_adapter():
            if self._noisy_model is None:
                yield
                return
            from hetero_plugin.hf import disabled

            with disabled(self._noisy_model):
                yield

    @property
    def computes_in(self) -> torch.dtype:
        """The dtype of a pass, as FSDP's mixed precision has it; parameters may be kept in more."""
        return self._autocast_dtype

    @staticmethod
    def _controller(noise: RunNoise, state: Any) -> Any:
        if noise.config.aqn is None or not noise.options.actor_aqn:
            return None
        from hetero_plugin.aqn import AQNController

        return AQNController(noise.config.aqn, state.attach_aqn())

    def train_batch(self, data: Any, loss_function: Callable[..., Any]) -> Any:
        state = self._noise_state
        if state is None:
            return super().train_batch(data, loss_function)
        metrics = active.actor_metrics(state.status())
        if self._measured_step == state.step or not due(self._realised_every, state.step):
            output = super().train_batch(data, loss_function)
        else:
            self._measured_step = state.step
            kinds = {chosen.site.name: chosen.site.kind for chosen in state.selected}
            realised = RealisedError(kinds)
            with record(realised):
                output = super().train_batch(data, loss_function)
            metrics |= realised.metrics()
        output.setdefault("metrics", {}).update(metrics)
        return output


class NoisyFSDPEngineCPU(NoisyFSDPEngine):
    """The same on gloo and CPU tensors, for clean and noisy runs alike; FSDP2 only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.engine_config.strategy != "fsdp2":
            raise ConfigError(
                f"strategy={self.engine_config.strategy!r} on a CPU: FSDP1 rejects CPU modules, as "
                "verl has it sync_module_states; set actor_rollout_ref.actor.strategy=fsdp2"
            )

    def _build_fsdp_module(self, module: Any) -> Any:
        """As verl's, but that a reference policy stays in pageable memory.

        Under FSDP2 verl offloads a model that only runs forward to pinned memory, which an
        accelerator's driver gives; here there is none, and the model is where it would go anyway.
        """
        from verl.workers.engine.fsdp import transformer_impl

        implementation: Any = transformer_impl
        given = implementation.CPUOffloadPolicy

        def pageable(pin_memory: bool) -> Any:
            return given(pin_memory=False)

        implementation.CPUOffloadPolicy = pageable
        try:
            return super()._build_fsdp_module(module)
        finally:
            implementation.CPUOffloadPolicy = given
