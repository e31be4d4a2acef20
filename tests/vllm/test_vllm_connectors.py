"""KV connectors of a noisy engine: emptied with every change, refused where they can't be.

tests/engines/test_vllm_connectors.py runs one in a real engine; here are the ways to be refused.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.config import KVTransferConfig
from vllm.v1.engine.core import EngineCore

from hetero_plugin.config import ConfigError
from hetero_plugin.vllm import connectors, register

HERE = "tests.engines.kv_store"


def configured(name: str, **extra: Any) -> Any:
    """As much of a VllmConfig as is looked at, around vLLM's own KVTransferConfig."""
    given = KVTransferConfig(
        kv_connector=name,
        kv_role="kv_both",
        kv_connector_module_path=extra.pop("module", None),
        kv_connector_extra_config=extra,
    )
    return SimpleNamespace(kv_transfer_config=given)


def inside(*names: str, **settings: Any) -> list[dict[str, Any]]:
    return [{"kv_connector": name, "kv_role": "kv_both", **settings} for name in names]


@pytest.mark.parametrize(
    "name",
    [
        "LMCacheConnectorV1",
        "LMCacheMPConnector",
        "NixlConnector",
        "MooncakeConnector",
        "ExampleConnector",
    ],
)
def test_a_connector_without_a_reset_of_its_own_is_refused(name: str) -> None:
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    if name not in KVConnectorFactory._registry:
        pytest.skip(f"this vLLM has no {name}")
    with pytest.raises(ConfigError, match=f"KV connector {name}") as caught:
        connectors.refuse_configured(configured(name))
    text = str(caught.value)
    assert "has no reset_cache of its own" in text or "No module named" in text


def test_what_a_multi_connector_holds_is_looked_at() -> None:
    good = inside("OffloadingConnector", "SimpleCPUOffloadConnector")
    connectors.refuse_configured(configured("MultiConnector", connectors=good))
    for bad in (inside("ExampleConnector"), inside("MultiConnector")):
        if bad[0]["kv_connector"] == "MultiConnector":
            bad[0]["kv_connector_extra_config"] = {"connectors": inside("ExampleConnector")}
        with pytest.raises(ConfigError, match="KV connector ExampleConnector has no reset_cache"):
            connectors.refuse_configured(configured("MultiConnector", connectors=good + bad))


def test_tiers_that_outlive_a_reset_are_refused() -> None:
    tiers = [{"type": "fs", "path": "kv"}]
    with pytest.raises(ConfigError, match="keeps its secondary tiers"):
        connectors.refuse_configured(configured("OffloadingConnector", secondary_tiers=tiers))
    connectors.refuse_configured(configured("OffloadingConnector", secondary_tiers=[]))


def test_a_class_of_ones_own() -> None:
    connectors.refuse_configured(configured("ForgettingConnector", module=HERE))
    with pytest.raises(ConfigError, match=r"can't be looked at \(AttributeError"):
        connectors.refuse_configured(configured("NobodysConnector", module=HERE))


def test_a_vllm_that_can_not_be_asked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    def reset_prefix_cache(self: Any, reset_running_requests: bool = False) -> bool:
        return True

    monkeypatch.setattr(Scheduler, "reset_prefix_cache", reset_prefix_cache)
    with pytest.raises(ConfigError, match="can't be emptied through this version of vLLM"):
        connectors.refuse_configured(configured("OffloadingConnector"))


# ---- at the call: vLLM's own EngineCore around a connector that answers


class Connector:
    """A connector as the scheduler has it."""

    def __init__(self, *answers: bool | None) -> None:
        self.answers, self.asked = list(answers), 0

    def reset_cache(self) -> bool | None:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Tiered(Connector):
    """One whose answer is yes, and whose files stay."""

    connector_scheduler = SimpleNamespace(manager=SimpleNamespace(secondary_tiers=["files"]))


class Several:
    """As MultiConnector, which takes None for yes."""

    def __init__(self, *connectors: Connector) -> None:
        self.sub_connectors = list(connectors)

    def reset_cache(self) -> bool:
        return all([one.reset_cache() is not False for one in self.sub_connectors])


def engine(connector: Any, noisy: bool = False) -> tuple[Any, list[str]]:
    """A real EngineCore without its start: vLLM's scheduler code resets what it is given."""
    from vllm.v1.core.sched.scheduler import Scheduler

    register()
    made: list[str] = []
    scheduler = SimpleNamespace(
        running=[],
        prev_step_scheduled_req_ids=set(),
        kv_cache_manager=SimpleNamespace(reset_prefix_cache=lambda: True),
        connector=connector,
        log_stats=False,
        aux_output_connector=None,
    )
    for name in ("reset_prefix_cache", "reset_connector_cache"):
        method = getattr(Scheduler, name).__get__(scheduler)
        setattr(scheduler, name, method)
    core = EngineCore.__new__(EngineCore)
    core.scheduler = scheduler
    core.vllm_config = SimpleNamespace(quant_config=None)  # type: ignore[assignment]
    core.model_executor = SimpleNamespace(  # type: ignore[assignment]
        collective_rpc=lambda method, *_, **__: made.append(method) or ["done"]
    )
    return core, made


def test_a_change_empties_the_connector_and_a_question_does_not() -> None:
    connector = Connector(True)
    core, made = engine(connector)
    assert core.collective_rpc("hetero_noise_status") == ["done"] and connector.asked == 0
    assert core.collective_rpc("hetero_noise_set", None, (), {"scale": 0.1}) == ["done"]
    assert connector.asked == 2 and made == ["hetero_noise_status", "hetero_noise_set"]
    assert "reset_cache" not in vars(connector), "it is listened to while it is asked only"


@pytest.mark.parametrize(
    "connector",
    [
        Connector(None),
        Connector(False),
        Several(Connector(True), Connector(None)),
        Several(Connector(False)),
        Tiered(True),
    ],
)
def test_one_that_does_not_let_go_is_refused_before_the_change(connector: Any) -> None:
    core, made = engine(connector)
    with pytest.raises(RuntimeError, match="Nothing was changed"):
        core.collective_rpc("hetero_noise_step", None, (), {"step": 1})
    assert made == []


def test_one_that_fails_after_the_change_says_that_the_engine_is_spoilt() -> None:
    core, made = engine(Connector(True, False))
    with pytest.raises(RuntimeError, match="answers may now be of two noises: restart it"):
        core.collective_rpc("hetero_noise_set", None, (), {"scale": 0.1})
    assert made == ["hetero_noise_set"]


def test_without_a_connector_nothing_is_asked_of_one() -> None:
    core, made = engine(None)
    assert core.collective_rpc("hetero_noise_set", None, (), {"scale": 0.1}) == ["done"]
    assert made == ["hetero_noise_set"]


@pytest.mark.parametrize("answer", [None, False])
def test_a_store_that_is_not_emptied_at_the_start_is_refused(answer: bool | None) -> None:
    connectors.empty_made(SimpleNamespace(connector=None))
    kept = Connector(True)
    connectors.empty_made(SimpleNamespace(connector=Several(kept)))
    assert kept.asked == 1
    with pytest.raises(ConfigError, match="did not say that it was emptied"):
        connectors.empty_made(SimpleNamespace(connector=Several(kept, Connector(answer))))
