"""A replay buffer that looks more often, and gives a batch in the order in which it was asked for.

verl's own asks every two seconds whether a batch is complete. Where a whole step takes two seconds
that is half the run. And its batch is in the order in which answers came, which is another each
time: sums over a batch then round otherwise, and two runs of one seed drift apart.

Small runs name this one: ``trainer.v1.sampler.custom_sampler.path=pkg://hetero_plugin.verl.replay``
and ``trainer.v1.sampler.custom_sampler.name=FastReplayBuffer``, with
``+trainer.v1.sampler.sampler_kwargs.poll_interval=0.1`` (seconds).

After a change of the order `begun.SAMPLING` is raised.
"""

from __future__ import annotations

from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from hetero_plugin.verl.patches import expect_parameters

_DEFAULT_POLL_S = 0.1

for _name, _takes in {
    "_select_prompt_uids": "partition_id sampleable_keys batch_size",
    "_materialize_batch": "partition_id selected_prompt_uids partition_snapshot",
}.items():
    expect_parameters(
        getattr(ReplayBuffer, _name), f"verl's ReplayBuffer.{_name}", "self", *_takes.split()
    )


class FastReplayBuffer(ReplayBuffer):
    """verl's synchronous replay buffer with a settable poll interval (seconds), and in order."""

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

    def _asked(self, partition_id: str) -> dict[str, int]:
        """Prompts that wait, by their identifier: the place at which each was asked for."""
        return {uid: place for place, uid in enumerate(self.prompt_global_steps[partition_id])}

    def _select_prompt_uids(
        self, partition_id: str, sampleable_keys: Any, batch_size: int
    ) -> tuple[list[str], dict[str, dict[str, Any]], dict[str, int]]:
        asked = self._asked(partition_id)
        ordered: Any = sorted(sampleable_keys, key=lambda uid: asked.get(uid, len(asked)))
        return super()._select_prompt_uids(partition_id, ordered, batch_size)

    def _materialize_batch(
        self,
        partition_id: str,
        selected_prompt_uids: list[str],
        partition_snapshot: dict[str, dict[str, Any]],
    ) -> Any:
        asked = self._asked(partition_id)

        def place(key: str) -> tuple[int, int, int]:
            uid, answer, part = key.rsplit("_", 2)
            return asked.get(uid, len(asked)), int(answer), int(part)

        ordered = {key: partition_snapshot[key] for key in sorted(partition_snapshot, key=place)}
        return super()._materialize_batch(partition_id, selected_prompt_uids, ordered)
