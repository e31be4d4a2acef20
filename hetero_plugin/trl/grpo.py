"""GRPO that says which of its forward passes generate and which train.

TRL generates inside the training step, so Trainer's callbacks can't tell the two apart. This
trainer can: it wraps the methods in which they happen, and refuses a TRL that hasn't got them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer

from hetero_plugin.aqn import AQNController
from hetero_plugin.config import ConfigError
from hetero_plugin.hf import HeteroNoiseCallback, disabled, phase, state_of, unwrap
from hetero_plugin.hf.places import reads_reference
from hetero_plugin.hf.wrap import attachment_of
from hetero_plugin.trl.engine import ColocatedEngine, noisy_engines
from hetero_plugin.trl.head import give_noisy_head

__all__ = ["HeteroNoiseGRPOTrainer"]

_WRAPPED = ("_generate", "_get_per_token_logps_and_entropies")


class _Steps(HeteroNoiseCallback):
    """Noise step and phase of each optimizer step; AQN is left to generation."""

    def __init__(self, evaluation: Literal["noisy", "clean"]) -> None:
        super().__init__(evaluation=evaluation)
        self.controller: AQNController | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        super().on_train_begin(args, state, control, model, **kwargs)
        if self._aqn is not None:
            self.controller = self._aqn.controller
            self._aqn = None  # not in on_step_begin

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        super().on_step_begin(args, state, control, model, **kwargs)
        if self.controller is not None:
            self.sigma = self.controller.config.sigma(state.global_step)


class HeteroNoiseGRPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer for a wrapped model.

    Each optimizer step has one noise step. Completions are generated in the phase ``rollout``,
    with AQN's σ of the step; log-probabilities that the loss compares are computed in the phase
    ``train``, without AQN. The reference policy is clean. Evaluation is a rollout without AQN.

    With ``use_vllm`` the colocated engine gets the spec of the model, and each generation checks
    that it has it. Server mode is refused: TRL syncs weights to a server by NCCL alone.

    Args:
        model: wrapped; its spec may have AQN.
        evaluation: ``noisy``: evaluation under the spec; ``clean``: without error.

    Example::

        trainer = HeteroNoiseGRPOTrainer(
            wrap(model, spec), reward_funcs=reward, args=GRPOConfig(...), train_dataset=data
        )

    Raises:
        ConfigError: the model is not wrapped, ``resample: call``, or vLLM in server mode; while
            training, an engine that is not as noisy as it should be.
    """

    def __init__(
        self, model: Any, *args: Any, evaluation: Literal["noisy", "clean"] = "noisy", **kwargs: Any
    ) -> None:
        self.model: Any
        missing = [name for name in _WRAPPED if not hasattr(GRPOTrainer, name)]
        if missing:
            raise ConfigError(
                f"this TRL's GRPOTrainer has no {', '.join(missing)}, where hetero_noise tells "
                "generation from training; it is written for trl 1.16"
            )
        if not isinstance(model, nn.Module) or attachment_of(model) is None:
            raise ConfigError(
                "HeteroNoiseGRPOTrainer takes a wrapped model, so that noise is what was asked "
                "for: HeteroNoiseGRPOTrainer(wrap(model, spec), ...)"
            )
        callbacks = kwargs.get("callbacks") or ()
        if any(isinstance(one, HeteroNoiseCallback) for one in callbacks):
            raise ConfigError(
                "this trainer brings its own HeteroNoiseCallback, which leaves AQN to generation; "
                "take yours out of callbacks"
            )
        wrapped: Any = model
        spec = state_of(model).config
        self.engine: ColocatedEngine | None = None
        self._steps = _Steps(evaluation)
        with noisy_engines(spec):
            super().__init__(wrapped, *args, **kwargs)
        self.callback_handler.add_callback(self._steps)
        if self.ref_model is not None and attachment_of(self.ref_model) is not None:
            unwrap(self.ref_model)  # its checkpoint names hetero_noise
        give_noisy_head(self.model, self.temperature)
        if self.use_vllm:
            self.engine = ColocatedEngine(self.vllm_generation, state_of(self.model))

    @contextmanager
    def _rollout(self) -> Iterator[None]:
        state = state_of(self.model)
        if not self.model.training:
            if self.engine is not None:
                self.engine.evaluate(state.step, noisy=state.enabled)
            yield  # the callback has set what an evaluation is
            return
        if self.engine is not None:
            self.engine.rollout(state.step)
            yield
            return
        controller = self._steps.controller
        with phase(self.model, "rollout"):
            try:
                if controller is not None:
                    controller.step(state.step)
                yield
            finally:
                if controller is not None:
                    controller.off()

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        with self._rollout():
            return super()._generate(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        # With adapters the reference policy is the model itself without them: clean, as any.
        reference = model is not self.ref_model and reads_reference(self.model)
        with disabled(self.model) if reference else nullcontext():
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
