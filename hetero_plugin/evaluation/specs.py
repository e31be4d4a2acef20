"""What of a specification an evaluation is about: its sites, in a forward pass of inference."""

from __future__ import annotations

from typing import Any

from hetero_plugin.config import ConfigError, NoiseConfig


def evaluation_spec(spec: Any, seed: int | None, scale: float | None) -> NoiseConfig:
    """The spec of an evaluation: the given sites at ``scale``, forward only, without AQN.

    With ``scale`` None each rule keeps its own.

    Raises:
        ConfigError: the spec is invalid, or has no rule for inference.
    """
    config = NoiseConfig.parse(spec)
    rules = tuple(
        rule.replace(
            scale=rule.scale if scale is None else scale, direction="forward", phase="both"
        )
        for rule in config.rules
        if rule.phase in ("both", "rollout") and rule.direction != "backward"
    )
    if not rules:
        raise ConfigError(
            "the specification has no rule that acts in a forward pass of inference (all are "
            "backward only or train only), so an evaluation under it would be clean"
        )
    return config.replace(rules=rules, aqn=None, seed=config.seed if seed is None else seed)
