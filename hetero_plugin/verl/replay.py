"""A replay buffer that looks more often.

verl's own asks every two seconds whether a batch is complete. Where a whole step takes two
seconds that is half the run, so small runs name this one:
``trainer.v1.sampler.custom_sampler.path=pkg://hetero_plugin.verl.replay`` and
``trainer.v1.sampler.custom_sampler.name=FastReplayBuffer``, with
``+trainer.v1.sampler.sampler_kwargs.poll_interval=0.1`` (seconds).
"""

from __future__ import annotations

from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

_DEFAULT_POLL_S = 0.1


class FastReplayBuffer(ReplayBuffer):
    """verl's synchronous replay buffer with a settable poll interval (seconds)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings: dict[str, Any] = dict(self.sampler_kwargs or {})
        given = settings.get("poll_interval", _DEFAULT_POLL_S)
        interval = float(given)
        if not 0.0 < interval <= 60.0:
            raise ValueError(
                f"trainer.v1.sampler.sampler_kwargs.poll_interval={given!r}: "
                "give seconds, more than 0 and at most 60"
            )
        self.poll_interval = interval
