"""Metrics: their names, their arithmetic, and what a step's numbers mean."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.verl import realised, trainer
from hetero_plugin.verl.realised import RealisedError
from hetero_plugin.verl.settings import RunNoise, RunOptions
from hetero_plugin.verl.trainer import log_prob_gap, noisy_names, rollout_metrics
from hetero_plugin.vllm.client.calls import RanksDisagree


def test_the_gap_counts_response_tokens_only() -> None:
    old = torch.tensor([[-1.0, -2.0, -9.0]])
    rollout = torch.tensor([[-1.5, -2.0, 0.0]])
    gap = log_prob_gap(old, rollout, torch.tensor([[1, 1, 0]]))
    assert gap == {
        "hetero/rollout_actor_logprob_gap/mean": 0.25,
        "hetero/rollout_actor_logprob_gap/max": 0.5,
    }
    assert log_prob_gap(old, rollout, torch.zeros(1, 3)) == {}


def test_noisy_validation_has_names_of_its_own() -> None:
    given = {"val-core/openai/gsm8k/acc/mean@1": 0.5, "val-aux/num_turns/min": 2.0}
    assert noisy_names(given) == {"hetero/val_noisy/openai/gsm8k/acc/mean@1": 0.5}


def test_one_worker_that_is_off_shows() -> None:
    on = {"sites": {"linear": 3}, "enabled": True}
    metrics = rollout_metrics([on, {**on, "enabled": False}])
    assert metrics["hetero/rollout/enabled"] == 0.0
    assert metrics["hetero/rollout/workers"] == 2.0
    assert metrics["hetero/rollout/sites/linear"] == 3.0


def test_realised_error_is_that_of_the_first_call_of_each_site() -> None:
    measure = RealisedError({"a": "linear", "b": "norm"})
    x = torch.tensor([3.0, 4.0, 0.0, 0.0])
    measure(("a",), "output", x, x * 1.1)
    measure(("a",), "output", x, x * 2.0)  # a later micro-batch
    measure(("a",), "grad_input", x, x * 1.5)
    measure(("b",), "output", x, x)
    metrics = measure.metrics()
    assert metrics["hetero/realised_error/linear"] == [pytest.approx(0.1, rel=1e-5)]
    assert metrics["hetero/realised_error/linear.grad_input"] == [pytest.approx(0.5, rel=1e-5)]
    assert metrics["hetero/realised_changed/linear"] == [0.5]
    assert metrics["hetero/realised_error/norm"] == [0.0]


def test_of_a_large_tensor_rows_are_sampled_evenly() -> None:
    x = torch.arange(1000.0)[:, None].expand(1000, 7)
    rows = realised.sample(x.unflatten(0, (10, 100)), elements=70)[:, 0]
    assert rows.tolist() == [100.0 * i for i in range(10)]
    assert realised.sample(x, elements=7000) is x
    assert realised.sample(x.t(), elements=700).shape == (1, 500)  # a row too long by itself
    assert realised.sample(torch.zeros(1000), elements=100).shape == (100,)


def test_a_sample_has_the_size_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1500, 2048, generator=generator)
    assert x.numel() > 4 * realised.ELEMENTS
    y = x + 0.05 * x.abs() * torch.randn(x.shape, generator=generator)
    measure = RealisedError({"a": "lm_head"})
    measure(("a",), "output", x, y)
    assert measure.metrics()["hetero/realised_error/lm_head"] == [pytest.approx(0.05, rel=0.02)]


@pytest.mark.parametrize("shape", [(4500, 4096), (4096, 4500), (3, 1500, 4096), (1, 2**24)])
def test_the_memory_of_a_measurement_is_as_stated(shape: tuple[int, ...]) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.weak import WeakIdKeyDictionary

    class Watch(TorchDispatchMode):
        """Sums what is allocated and alive, storage by storage."""

        def __init__(self, *known: torch.Tensor) -> None:
            super().__init__()
            self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
            self.alive: Any = WeakIdKeyDictionary()
            self.peak = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    if storage.data_ptr() not in self.known:
                        self.alive[tensor] = (storage.data_ptr(), storage.nbytes())
            self.peak = max(self.peak, sum(dict(self.alive.values()).values()))
            return out

    x = torch.ones(shape, dtype=torch.bfloat16)
    y = x.clone()
    with Watch(x, y) as watch:
        RealisedError({"a": "linear"})(("a",), "grad_weight", x, y)
        RealisedError({"a": "linear"})(("a",), "grad_weight", x.mT, y.mT)
    assert 0 < watch.peak <= realised.MEMORY


def test_realised_error_is_measured_every_so_many_steps_or_never() -> None:
    assert [step for step in range(7) if realised.due(3, step)] == [0, 3, 6]
    assert all(realised.due(1, step) for step in range(5))
    assert not any(realised.due(0, step) for step in range(5))


# ---------------------------------------------------------------------- the trainer, without Ray

AQN = {"schedule": "constant", "sigma_start": 0.01}


class Server:
    """A replica's server: of the first node with an engine of two ranks, of others with none."""

    def __init__(self, ranks: int = 2) -> None:
        self.ranks = [{"noisy": True, "enabled": True, "sigma": 0.01} for _ in range(ranks)]
        self.hetero_rpc = SimpleNamespace(remote=self._rpc)
        self.deaf: set[int] = set()

    def _rpc(self, method: str, kwargs: dict[str, Any]) -> list[dict[str, Any]]:
        for rank, status in enumerate(self.ranks):
            if rank in self.deaf:
                continue
            if method == "hetero_noise_set":
                status["enabled"] = kwargs["enabled"]
            elif method == "hetero_noise_aqn":
                status["sigma"] = 0.0 if kwargs.get("off") else 0.01
        return [dict(status) for status in self.ranks]


class Base:
    """verl's trainer, as far as a validation goes: it answers by what its rollout does."""

    def _validate(self: Any) -> dict[str, float]:
        status = self.server.ranks[0]
        said = f"enabled={status['enabled']} sigma={status['sigma']}"
        self._maybe_log_val_generations(inputs=["1+1"], outputs=[said], scores=[0.0])
        self._dump_generations(["1+1"], [said], dump_path=self.dumps)
        return {"val-core/x": float(status["enabled"])}

    def _dump_generations(self: Any, inputs: Any, outputs: Any, dump_path: str) -> None:
        self._write_generations(inputs, outputs, dump_path, self.global_steps)

    @staticmethod
    def _write_generations(inputs: Any, outputs: Any, dump_path: str, global_steps: int) -> None:
        path = Path(dump_path) / f"{global_steps}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(outputs[0])

    def _maybe_log_val_generations(self: Any, inputs: Any, outputs: Any, scores: Any) -> None:
        self.logged.append((inputs, outputs, scores))

    def _save_checkpoint(self: Any) -> None:
        self.saved = True


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(trainer.ray, "get", lambda answer: answer)
    made: Any = trainer.extend(Base)()
    made.server, made.logged, made.global_steps = Server(), [], 2
    made.dumps, made._hetero_samples = str(tmp_path / "dumps"), []
    replica = SimpleNamespace(servers=[made.server, Server(0)], world_size=2)
    made.llm_server_manager = SimpleNamespace(get_replicas=lambda: [replica])
    made._hetero = RunNoise(NoiseConfig.parse({"scale": 0.05, "aqn": AQN}), RunOptions())
    made.config = OmegaConf.create({"trainer": {"default_local_dir": str(tmp_path / "run")}})
    return made


def dumped(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.jsonl")}


def test_a_steps_two_validations_differ_and_are_both_kept(run: Any, tmp_path: Path) -> None:
    metrics = run._validate()
    assert metrics == {"val-core/x": 0.0, "hetero/val_noisy/x": 1.0}
    clean, noisy = "enabled=False sigma=0.0", "enabled=True sigma=0.0"
    assert dumped(tmp_path / "dumps") == {"clean/2.jsonl": clean, "noisy/2.jsonl": noisy}
    # One table a step, with both.
    assert run.logged == [(["[clean] 1+1", "[noisy] 1+1"], [clean, noisy], [0.0, 0.0])]
    # Afterwards the rollout is as training needs it.
    assert run.server.ranks == [{"noisy": True, "enabled": True, "sigma": 0.01}] * 2


def test_a_second_dump_of_a_step_is_kept_beside(run: Any, tmp_path: Path) -> None:
    run._validate()
    (tmp_path / "dumps" / "noisy" / "2.jsonl").write_text("measured before the resume")
    run._validate()
    assert dumped(tmp_path / "dumps")["noisy/2-1.jsonl"] == "measured before the resume"


def test_one_validation_alone_has_its_name_too(run: Any, tmp_path: Path) -> None:
    run._hetero = RunNoise(run._hetero.config, RunOptions(validation="clean"))
    run._validate()
    assert set(dumped(tmp_path / "dumps")) == {"clean/2.jsonl"}
    assert [inputs for inputs, _, _ in run.logged] == [["[clean] 1+1"]]


def test_a_clean_runs_dump_is_where_verl_puts_it(run: Any, tmp_path: Path) -> None:
    run._hetero = None
    run._validate()
    assert set(dumped(tmp_path / "dumps")) == {"2.jsonl"}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_does_not_switch_ends_the_validation(run: Any, rank: int) -> None:
    run.server.deaf = {rank}
    with pytest.raises(RanksDisagree, match="1 answered otherwise than rank 0"):
        run._validate()
    assert run.logged == []


def test_a_rank_that_does_not_answer_ends_the_validation(run: Any) -> None:
    run.server.ranks.pop()
    with pytest.raises(ConfigError, match="1 of the 2 ranks"):
        run._validate()


def test_a_checkpoint_says_what_it_was_trained_under(run: Any, tmp_path: Path) -> None:
    from hetero_plugin.verl import resume

    run._save_checkpoint()
    assert run.saved
    record = resume._recorded(tmp_path / "run" / "global_step_2")
    assert record is not None and record["fingerprint"] == run._hetero.config.fingerprint


def test_the_server_of_a_further_node_answers_with_nothing() -> None:
    import asyncio

    pytest.importorskip("vllm")
    from hetero_plugin.verl.server import HeteroHttpServer

    server: Any = object.__new__(HeteroHttpServer)  # it has no engine, as verl leaves it
    server.node_rank, server._noise = 1, RunNoise(NoiseConfig.parse("rmsnorm"), RunOptions())
    assert asyncio.run(server.hetero_rpc("hetero_noise_status")) == []
    assert asyncio.run(server.hetero_attest()) == []
