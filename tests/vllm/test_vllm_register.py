"""The plugin's entry: registered once, every patch target as it was when the patch was written."""

from __future__ import annotations

import importlib
import inspect

import pytest

pytest.importorskip("vllm")

from hetero_plugin.vllm import patches, register

pytestmark = pytest.mark.compat("registration", short=True)


def test_the_method_is_registered_and_twice_is_once() -> None:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.layers.quantization import (
        QUANTIZATION_METHODS,
        get_quantization_config,
    )

    from hetero_plugin.vllm.quantization import HeteroNoiseQuantConfig

    register()
    before = [inspect.getattr_static(EngineArgs, t.name) for t in patches.WRAPPED[:3]]
    register()
    assert before == [inspect.getattr_static(EngineArgs, t.name) for t in patches.WRAPPED[:3]]
    assert QUANTIZATION_METHODS.count("hetero_noise") == 1
    assert get_quantization_config("hetero_noise") is HeteroNoiseQuantConfig


def test_vllm_finds_the_entry_point() -> None:
    from importlib.metadata import entry_points

    found = {e.name: e.value for e in entry_points(group="vllm.general_plugins")}
    assert found["hetero_noise"] == "hetero_plugin.vllm:register"


@pytest.mark.parametrize("target", patches.WRAPPED + patches.SERVED + patches.FOLLOWED, ids=str)
def test_each_target_has_the_signature_we_rely_on(target: patches.Target) -> None:
    owner = getattr(importlib.import_module(target.module), target.owner)
    function = inspect.unwrap(getattr(owner, target.name))
    found = tuple(inspect.signature(function).parameters)
    expected = target.parameters
    if inspect.ismethod(getattr(owner, target.name)):
        found = tuple(p for p in found if p != "cls")
    assert expected is None or found == expected
    assert target.why


def test_a_changed_target_stops_the_start_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine.core import EngineCore

    def collective_rpc(self: object, method: str, deadline: float) -> None: ...

    monkeypatch.setattr(EngineCore, "collective_rpc", collective_rpc)
    with pytest.raises(patches.PatchError) as caught:
        patches.apply()
    text = str(caught.value)
    assert "vllm.v1.engine.core.EngineCore.collective_rpc" in text
    assert "deadline" in text and "timeout" in text
    assert "vllm 0." in text and "hetero_plugin 0." in text


def test_a_missing_target_stops_the_start_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.worker.worker_base import WorkerWrapperBase

    monkeypatch.delattr(WorkerWrapperBase, "init_device")
    with pytest.raises(patches.PatchError, match=r"WorkerWrapperBase\.init_device is gone"):
        patches.apply()
