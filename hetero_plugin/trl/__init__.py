"""TRL: GRPO with hardware error in generation and in training, and AQN in generation alone."""

from __future__ import annotations

try:
    import trl  # noqa: F401
except ImportError as error:
    raise ImportError(
        "hetero_plugin.trl needs TRL; install it with: pip install 'hetero-plugin[trl]'"
    ) from error

from hetero_plugin.trl.grpo import HeteroNoiseGRPOTrainer

__all__ = ["HeteroNoiseGRPOTrainer"]
