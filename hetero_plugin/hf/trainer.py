"""A callback that tells a wrapped model what transformers' Trainer is doing."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hetero_plugin.config import AQNConfig, ConfigError
from hetero_plugin.hf.aqn import AQN
from hetero_plugin.hf.wrap import state_of

__all__ = ["HeteroNoiseCallback"]


class HeteroNoiseCallback(TrainerCallback):
    """Sets the noise step, the phase and AQN's σ of a wrapped model from Trainer's global step.

    All micro-batches of an optimizer step have one noise step, and a run that is resumed goes on at
    the right one, since Trainer keeps its global step in the checkpoint. Between steps, where
    Trainer evaluates and saves, the phase is ``rollout`` and AQN is off. Nothing is written into a
    checkpoint: offsets and scales belong to no module.

    Args:
        aqn: default: the ``aqn`` of the model's spec, if it has one.
        evaluation: ``noisy``: the spec in the phase ``rollout``; ``clean``: no error.

    Example::

        Trainer(wrap(model, spec), args, train_dataset=data, callbacks=[HeteroNoiseCallback()])

    Raises:
        ConfigError: when training begins: the model is not wrapped, or ``resample: call``, whose
            count of calls no checkpoint has.
    """

    def __init__(
        self,
        aqn: AQNConfig | dict[str, Any] | None = None,
        evaluation: Literal["noisy", "clean"] = "noisy",
    ) -> None:
        if evaluation not in ("noisy", "clean"):
            raise ConfigError(f"evaluation is {evaluation!r}; it must be 'noisy' or 'clean'")
        self.evaluation = evaluation
        self._config = AQNConfig(**aqn) if isinstance(aqn, dict) else aqn
        self._aqn: AQN | None = None
        self.sigma: float | None = None
        """AQN's σ of the last step; None without AQN."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Makes the AQN, and what comes before the first step an evaluation."""
        assert model is not None
        spec = state_of(model).config
        if spec.resample == "call":
            raise ConfigError(
                "resample: call draws by the number of calls, which no checkpoint of Trainer has, "
                "so a run that is resumed would differ; use resample: step"
            )
        if self._config is not None or spec.aqn is not None:
            self._aqn = AQN(model, self._config)
        self._between(model)

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Before the first micro-batch of an optimizer step; ``global_step`` are finished."""
        assert model is not None
        noise = state_of(model)
        noise.set_step(state.global_step)
        noise.set_enabled(True)
        noise.set_phase("train")
        if self._aqn is not None:
            self.sigma = self._aqn.step(state.global_step)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """After the optimizer's step, before Trainer logs, saves and evaluates."""
        assert model is not None
        self._between(model)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """The model as it came, but for the phase of whoever trains next: none."""
        assert model is not None
        noise = state_of(model)
        noise.set_enabled(True)
        noise.set_phase(None)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds ``hetero/step`` and ``hetero/sigma`` to Trainer's log history.

        Reporters that were called before this callback have not got them.
        """
        if model is None:
            return
        values: dict[str, Any] = {"hetero/step": state_of(model).step}
        if self.sigma is not None:
            values["hetero/sigma"] = self.sigma
        if logs is not None:
            logs.update(values)
        if state.log_history:
            state.log_history[-1].update(values)

    def _between(self, model: nn.Module) -> None:
        noise = state_of(model)
        noise.set_phase("rollout")
        noise.set_enabled(self.evaluation == "noisy")
        if self._aqn is not None:
            self._aqn.off()
