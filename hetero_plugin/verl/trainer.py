"""verl's v1 trainers with clean and noisy validation and the ``hetero/`` metrics.

Each registered trainer is subclassed with a mixin under its own name, so
``trainer.v1.trainer_mode`` keeps its meaning. A clean run takes verl's path, but that its
checkpoints say that they are clean, and that no dump is written over another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch

from hetero_plugin.config import ConfigError
from hetero_plugin.verl import ranks, resume
from hetero_plugin.verl.attestation import settle
from hetero_plugin.verl.cluster import check_nodes
from hetero_plugin.verl.kept import keep_beside
from hetero_plugin.verl.settings import RunNoise, resolve_worker

if TYPE_CHECKING:
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer as _Trainer
else:
    _Trainer = object  # the mixin's next class is known only when it is mixed in

_CORE = "val-core/"
_NOISY = "hetero/val_noisy/"
_ACTOR = "actor/hetero/"


class HeteroTrainerMixin(_Trainer):
    """What a noisy run adds to a ``PPOTrainer``; to be placed before it in the bases."""

    config: Any
    global_steps: int
    total_training_steps: int
    llm_server_manager: Any
    actor_rollout_wg: Any
    _hetero: RunNoise | None = None
    _hetero_last: dict[str, float]
    _hetero_validates: str | None = None  # "clean" or "noisy", while a validation runs
    _hetero_samples: list[tuple[list[str], list[Any], list[Any]]]

    def _setup(self) -> None:
        self._hetero = resolve_worker(self.config.actor_rollout_ref.rollout, "trainer", os.environ)
        self._hetero_last = {}
        self._hetero_samples = []
        if self._hetero is not None:
            check_nodes(self._hetero.config)
        super()._setup()

    # ------------------------------------------------------------------ checkpoints

    def _load_checkpoint(self) -> None:
        resume.check(self.config.trainer, self._hetero)
        super()._load_checkpoint()

    def _save_checkpoint(self) -> None:
        folder = Path(str(self.config.trainer.default_local_dir))
        resume.write(folder / f"global_step_{self.global_steps}", self._hetero)
        super()._save_checkpoint()

    # ------------------------------------------------------------------ attestation

    def fit(self, agent_loop_manager: Any) -> None:
        self._hetero_attest("start")
        super().fit(agent_loop_manager)
        self._hetero_attest("end")

    def _hetero_attest(self, when: str) -> None:
        """Both engines, while neither has anything else to do; a refusal ends the run."""
        if self._hetero is None or not self._hetero.options.attest:
            return
        actors = self.actor_rollout_wg.hetero_attest()
        records = [(f"actor rank {rank}", record) for rank, record in enumerate(actors)]
        heads = [s for r in self.llm_server_manager.get_replicas() for s in r.servers]
        if when == "end" and self.config.trainer.v1.trainer_mode != "sync":
            print(
                "hetero_noise: rollout not attested at the end: requests are in flight", flush=True
            )
            heads = []
        answers = ray.get([head.hetero_attest.remote() for head in heads])
        rollouts = [record for answer in answers for record in answer]
        records += [(f"rollout {index}", record) for index, record in enumerate(rollouts)]
        # After the last step verl has counted one more than was trained.
        done = min(int(self.global_steps), int(self.total_training_steps))
        folder = Path(str(self.config.trainer.default_local_dir)).expanduser()
        settle(records, self._hetero, when=when, step=done, folder=folder)

    # ------------------------------------------------------------------ rollout workers

    def _hetero_call(self, method: str, **kwargs: Any) -> list[dict[str, Any]]:
        """Calls ``method`` on every rollout worker and returns their statuses, which agree."""
        replicas = self.llm_server_manager.get_replicas()
        asked = [
            [server.hetero_rpc.remote(method, kwargs=kwargs) for server in replica.servers]
            for replica in replicas
        ]
        replies: list[tuple[str, list[Any], int]] = []
        for index, (replica, calls) in enumerate(zip(replicas, asked, strict=True)):
            answers = [status for answer in ray.get(calls) for status in answer]
            replies.append((f"rollout replica {index}", answers, int(replica.world_size)))
        return ranks.compare(method, replies)

    def _hetero_switch(self, *, error: bool, aqn: bool) -> None:
        """Switches hardware error and AQN on or off in the rollout; its prefix cache is dropped."""
        assert self._hetero is not None
        for status in self._hetero_call("hetero_noise_set", enabled=error):
            if status.get("enabled") is not error:
                raise ConfigError(f"the rollout noise did not switch to {error}: {status!r}")
        if self._hetero.config.aqn is None:
            return
        if aqn:
            # The step whose rollouts come next, as HeteroServerAdapter set it at the last sync.
            self._hetero_call("hetero_noise_aqn", step=int(self.global_steps))
            return
        for status in self._hetero_call("hetero_noise_aqn", off=True):
            if status.get("sigma") != 0.0:
                raise ConfigError(f"AQN did not switch off for validation: {status!r}")

    # ------------------------------------------------------------------ validation

    def _validate(self) -> dict[str, float]:
        if self._hetero is None:
            return super()._validate()
        wanted = self._hetero.options.validation
        metrics: dict[str, float] = {}
        try:
            if wanted in ("both", "clean"):
                self._hetero_switch(error=False, aqn=False)
                with self._hetero_validation("clean"):
                    metrics.update(super()._validate())
            if wanted in ("both", "noisy"):
                self._hetero_switch(error=True, aqn=False)
                with self._hetero_validation("noisy"):
                    metrics.update(noisy_names(super()._validate()))
        finally:
            self._hetero_switch(error=True, aqn=True)
        return metrics

    @contextmanager
    def _hetero_validation(self, name: str) -> Iterator[None]:
        """Within it, what verl writes of a validation goes by this name."""
        self._hetero_validates = name
        try:
            yield
        finally:
            self._hetero_validates = None

    def _dump_generations(self, *columns: Any, **named: Any) -> None:
        if self._hetero_validates is not None:  # both validations of a step have its number
            named["dump_path"] = os.path.join(named["dump_path"], self._hetero_validates)
        super()._dump_generations(*columns, **named)

    def _write_generations(self, *columns: Any) -> None:  # type: ignore[override]  # static there
        # verl opens the step's file to write: a resumed run would lose what it had measured.
        folder, step = columns[-2:]
        keep_beside(Path(folder) / f"{step}.jsonl")
        super()._write_generations(*columns)

    def _maybe_log_val_generations(
        self, inputs: Sequence[str], outputs: Sequence[Any], scores: Sequence[Any]
    ) -> None:
        if self._hetero_validates is not None:
            # A logger keeps one table a step, so both validations go into one.
            named = [f"[{self._hetero_validates}] {text}" for text in inputs]
            self._hetero_samples.append((named, list(outputs), list(scores)))
            both = self._hetero is not None and self._hetero.options.validation == "both"
            if both and self._hetero_validates == "clean":
                return
            inputs = [text for one in self._hetero_samples for text in one[0]]
            outputs = [text for one in self._hetero_samples for text in one[1]]
            scores = [score for one in self._hetero_samples for score in one[2]]
            self._hetero_samples = []
        super()._maybe_log_val_generations(inputs=inputs, outputs=outputs, scores=scores)

    # ------------------------------------------------------------------ metrics

    def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_old_log_prob(batch, metrics)
        if self._hetero is not None and "training/rollout_probs_diff_mean" in metrics:
            import transfer_queue as tq

            fields = ["old_log_probs", "rollout_log_probs", "response_mask"]
            data = tq.kv_batch_get(
                keys=batch.keys, partition_id=batch.partition_id, select_fields=fields
            )
            padded = data.to_padded_tensor()
            metrics.update(log_prob_gap(*(padded[name] for name in fields)))
        return batch

    def _compute_metrics(
        self,
        batch: Any,
        metrics: dict[str, Any],
        timing_raw: Any,
        global_steps: int,
        epoch: int,
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        if self._hetero is None:
            return
        if (global_steps - 1) % self._hetero.options.metrics_every == 0 or not self._hetero_last:
            self._hetero_last = rollout_metrics(self._hetero_call("hetero_noise_status"))
        metrics.update(self._hetero_last)
        # This step trained under the error of index global_steps - 1; the workers have moved on.
        index = global_steps - 1
        aqn = self._hetero.config.aqn
        metrics["hetero/sigma"] = float(aqn.sigma(index)) if aqn is not None else 0.0
        metrics["hetero/step"] = float(index)
        metrics["hetero/scale"] = max(
            (rule.scale for rule in self._hetero.config.rules), default=0.0
        )
        for name in [name for name in metrics if name.startswith(_ACTOR)]:
            metrics["hetero/actor/" + name.removeprefix(_ACTOR)] = metrics.pop(name)
        for kind in ("mean", "max", "std"):
            name = f"training/rollout_probs_diff_{kind}"
            if name in metrics:
                metrics[f"hetero/rollout_actor_prob_gap/{kind}"] = metrics[name]


def extend(cls: type) -> type:
    """``cls`` with the mixin in front; ``cls`` itself if it already has it."""
    if issubclass(cls, HeteroTrainerMixin):
        return cls
    return type(f"Hetero{cls.__name__}", (HeteroTrainerMixin, cls), {"__module__": __name__})


def noisy_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """verl's core validation metrics under the noisy name; its auxiliary ones are dropped."""
    return {
        _NOISY + name.removeprefix(_CORE): value
        for name, value in metrics.items()
        if name.startswith(_CORE)
    }


def log_prob_gap(old: torch.Tensor, rollout: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """|log p_actor − log p_rollout| over response tokens: mean and maximum (nats).

    All three are [sequences, tokens]; ``mask`` is 1 on response tokens.
    """
    gap = (old.float() - rollout.float()).abs()[mask.bool()]
    if gap.numel() == 0:
        return {}
    return {
        "hetero/rollout_actor_logprob_gap/mean": gap.mean().item(),
        "hetero/rollout_actor_logprob_gap/max": gap.max().item(),
    }


def rollout_metrics(statuses: list[dict[str, Any]]) -> dict[str, float]:
    """The rollout workers' state as numbers: sites by kind, and whether all agree."""
    first = statuses[0]
    metrics = {
        f"hetero/rollout/sites/{kind}": float(n) for kind, n in (first.get("sites") or {}).items()
    }
    metrics["hetero/rollout/workers"] = float(len(statuses))
    metrics["hetero/rollout/enabled"] = float(all(bool(s.get("enabled")) for s in statuses))
    for kind, size in (first.get("realised") or {}).items():
        metrics[f"hetero/rollout/realised_error/{kind}"] = float(size)
    return metrics
