"""AQN on a Hugging Face model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from hetero_plugin.aqn import AQNController
from hetero_plugin.config import AQNConfig, ConfigError, NoiseConfig
from hetero_plugin.hf.wrap import attachment_of, update, wrap


class AQN:
    """Per-step noise on the RMSNorm weights of a model, in offsets: no parameter is touched.

    Args:
        model: wrapped or not; one that is not is wrapped with no other error.
        config: default: the ``aqn`` of the model's spec.

    Example::

        aqn = AQN(model, AQNConfig(schedule="global", sigma_start=0.05, sigma_end=5e-4,
                                   stages=10, total_steps=116))
        for step in range(116):
            with aqn.at(step):
                rollout(model)

    Raises:
        ConfigError: no configuration anywhere, or a norm class without a formula.
    """

    def __init__(self, model: nn.Module, config: AQNConfig | dict[str, Any] | None = None) -> None:
        if isinstance(config, dict):
            config = AQNConfig(**config)
        attachment = attachment_of(model)
        if attachment is None:
            if config is None:
                raise ConfigError("AQN needs a configuration: AQN(model, AQNConfig(...))")
            wrap(model, NoiseConfig(rules=(), aqn=config))
        else:
            old = attachment.state.config
            config = config or old.aqn
            if config is None:
                raise ConfigError(
                    "neither this call nor the spec of the model has an AQN configuration"
                )
            if old.aqn != config:
                update(model, old.replace(aqn=config))
        attachment = attachment_of(model)
        assert attachment is not None
        assert config is not None
        self.model = model
        self.config = config
        self._controller = AQNController(config, attachment.state.attach_aqn())

    @property
    def controller(self) -> AQNController:
        """Writes the offsets.

        Raises:
            ConfigError: the model was unwrapped or given another AQN configuration since.
        """
        attachment = attachment_of(self.model)
        state = None if attachment is None else attachment.state
        if state is None or state.aqn is not self._controller.offsets:
            if state is None or state.config.aqn != self.config:
                raise ConfigError(
                    "this AQN belongs to a spec that is no longer in force: the model was "
                    "unwrapped or updated since, and its noise would go nowhere. Make a new one: "
                    "AQN(model)"
                )
            self._controller = AQNController(self.config, state.attach_aqn())
        return self._controller

    @property
    def sigma(self) -> float:
        """The σ in force."""
        return self.controller.sigma

    def step(self, step: int) -> float:
        """Draws the noise of a training step, in place of the last; returns its σ."""
        return self.controller.step(step)

    def off(self) -> None:
        """The clean weights, bit for bit; also when the model was unwrapped since."""
        attachment = attachment_of(self.model)
        if attachment is not None and attachment.state.config.aqn == self.config:
            self.controller.off()

    @contextmanager
    def at(self, step: int) -> Iterator[float]:
        """The noise of a step inside; after it what was there before, which is mostly none.

        Nests: an outer `at`, or a `step`, is in force again.
        """
        before = self.controller.offsets.saved()
        try:
            yield self.step(step)
        finally:
            attachment = attachment_of(self.model)
            if attachment is not None and attachment.state.config.aqn == self.config:
                self.controller.offsets.restore(before)
