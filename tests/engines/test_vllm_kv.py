"""Keys and values that a KV connector keeps are forgotten with the noise that made them.

A real engine with vLLM's example connector, which keeps them in files; vLLM's own prefix cache is
off, so what is found is the connector's. Hugging Face says what the log-probabilities should be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines.vllm_engine import Engine, EngineError, Record, make_model
from tests.engines.yardstick import FLOOR, Yardstick

pytestmark = pytest.mark.engine

SHAPE: dict[str, Any] = {"hidden": 64, "heads": 2, "kv": 1, "inner": 96, "tied": True}
SPEC: dict[str, Any] = {"rules": [{"targets": ["linear"], "scale": 0.05}], "seed": 3}
PROMPT = [3 + (j * 7 + j * j) % 190 for j in range(150)]  # one block of 128 and more


@dataclass
class Bench:
    engine: Engine
    model: Path
    store: Path

    def ask(self) -> Record:
        return self.engine.ask("continuation", prompt=PROMPT, tokens=4)

    def stored(self) -> int:
        return len(list(self.store.iterdir()))

    def gap(self, answer: Record, scale: float) -> float:
        """From Hugging Face's, under the noise; with scale 0 from the clean model's."""
        from hetero_plugin import disabled

        rules = [{**SPEC["rules"][0], "scale": scale or 0.05}]
        yardstick = Yardstick(self.model, {**SPEC, "rules": rules})
        with contextlib.nullcontext() if scale else disabled(yardstick.model):
            return yardstick.gap(PROMPT, answer["tokens"], answer["decoded"])


def start(folder: Path, model: Path, connector: str, store: Path) -> Engine:
    return Engine(
        folder / f"{connector}.log",
        {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        enable_prefix_caching=False,
        quantization="hetero_noise",
        additional_config={"hetero_noise": SPEC},
        kv_transfer_config={
            "kv_connector": connector,
            "kv_connector_module_path": "tests.engines.kv_store",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"shared_storage_path": str(store)},
        },
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("connectors")
    model = make_model(folder / "model", dtype="float32", **SHAPE)
    store = folder / "store"
    (store / "of-an-engine-before").mkdir(parents=True)
    engine = start(folder, model, "ForgettingConnector", store)
    yield Bench(engine, model, store)
    engine.close()


def test_a_store_that_outlives_engines_is_emptied_at_the_start(bench: Bench) -> None:
    assert not (bench.store / "of-an-engine-before").exists()


def test_another_noise_is_not_served_from_the_connector(bench: Bench) -> None:
    bench.engine.set(scale=0.05)
    first = bench.ask()
    again = bench.ask()
    assert first["cached"] == 0 and again["cached"] >= 128, "the connector must be in use"
    assert bench.gap(first, 0.05) <= FLOOR and bench.gap(again, 0.05) <= FLOOR
    for method, arguments, scale in (
        ("hetero_noise_set", {"scale": 0.2}, 0.2),
        ("hetero_noise_set", {"enabled": False}, 0.0),
        ("hetero_noise_set", {"enabled": True}, 0.2),
    ):
        assert bench.ask()["cached"] >= 128
        bench.engine.ask("call", method="hetero_noise_status", arguments={})
        assert bench.stored() > 0, "asking for the status changes nothing"
        bench.engine.ask("call", method=method, arguments=arguments)
        assert bench.stored() == 0
        answer = bench.ask()
        assert answer["cached"] == 0 and bench.gap(answer, scale) <= FLOOR, (method, arguments)


def test_other_weights_are_not_served_either(bench: Bench, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", dtype="float32", seed=1, **SHAPE)
    bench.ask()
    assert bench.ask()["cached"] >= 128
    bench.engine.ask("reload", path=str(other), process=True)
    assert bench.stored() == 0 and bench.ask()["cached"] == 0
    bench.engine.ask("reload", path=str(bench.model), process=True)
    assert bench.stored() == 0


def test_a_connector_that_does_not_let_go_stops_the_change(bench: Bench) -> None:
    bench.engine.set(reset=True)
    before = bench.ask()
    (bench.store / "stuck").touch()
    try:
        with pytest.raises(EngineError, match=r"ForgettingConnector did not let go.*Nothing was"):
            bench.engine.set(scale=0.3)
        found = bench.engine.status()["scales"]
        assert found == {kind: [pytest.approx(0.05)] for kind in ("linear", "lm_head")}
    finally:
        (bench.store / "stuck").unlink()
    again = bench.ask()
    assert again["tokens"] == before["tokens"] and bench.gap(again, 0.05) <= FLOOR


def test_z_one_that_says_nothing_is_refused_at_the_start(bench: Bench, tmp_path: Path) -> None:
    """Last here, as it ends the engine that the others share."""
    bench.engine.close()
    with pytest.raises(EngineError, match="SilentConnector did not say that it was emptied"):
        start(tmp_path, bench.model, "SilentConnector", bench.store)
