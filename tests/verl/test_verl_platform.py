"""The CPU platform: complete, chosen when there is no accelerator, and never against one's will."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("verl")
import verl.plugin.platform.platform_manager as manager
from verl.plugin.platform.platform_base import PlatformBase

from hetero_plugin.verl import cpu_device, patches, platform

patches.install()


def test_it_answers_everything_that_verl_asks() -> None:
    cpu = platform.PlatformCPU()  # an abstract method left out would raise here
    assert isinstance(cpu, PlatformBase)
    assert (cpu.device_name, cpu.communication_backend_name()) == ("cpu", "gloo")
    assert torch.zeros(1).to(cpu.current_device()).device.type == "cpu"
    assert cpu.ray_resource_options(1) == {"num_gpus": 1}
    assert cpu.is_ipc_supported() is False
    assert cpu.get_device_capability() == (None, None)
    with cpu.nvtx_range("anything"):
        pass


def test_the_device_module_has_what_verl_calls_on_it() -> None:
    module = platform.PlatformCPU().device_module
    available, total = module.mem_get_info()
    assert 0 < available <= total
    assert module.max_memory_allocated() == module.memory_reserved() == 0
    module.empty_cache()
    state = module.get_rng_state()
    first = torch.rand(3)
    module.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)
    assert module.current_stream is torch.cpu.current_stream  # falls through to torch.cpu
    with pytest.raises(AttributeError):
        _ = cpu_device.no_such_function


def test_the_environment_chooses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    assert manager._detect_platform_name() == "cpu"
    monkeypatch.setenv("VERL_PLATFORM", "nvidia")
    assert manager._detect_platform_name() == "nvidia"


@pytest.mark.skipif(platform.accelerator_present(), reason="this machine has an accelerator")
def test_without_an_accelerator_it_is_the_one_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert manager._detect_platform_name() == "cpu"


def test_beside_an_accelerator_it_stands_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "accelerator_present", lambda: True)
    assert platform.PlatformCPU().is_platform_available(use_smi_check=True) is False


def test_verls_own_platforms_are_asked_first() -> None:
    names = manager.PlatformRegistry.registered_names()
    assert names[-1] == "cpu" and "nvidia" in names[:-1]


def test_a_process_group_forms_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed as dist
    from verl.utils.distributed import initialize_global_process_group_ray

    monkeypatch.setattr(manager, "_current_platform", platform.PlatformCPU())
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }.items():
        monkeypatch.setenv(name, value)
    initialize_global_process_group_ray()
    try:
        value = torch.ones(2)
        dist.all_reduce(value)
        assert value.tolist() == [1.0, 1.0]
    finally:
        dist.destroy_process_group()


def test_a_reference_policy_on_a_cpu_is_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned memory comes from an accelerator's driver; verl asks for it for what it offloads."""
    pytest.importorskip("verl")
    from verl.workers.engine.fsdp import transformer_impl

    from hetero_plugin.verl.engine import NoisyFSDPEngineCPU

    def build(self: Any, module: Any) -> Any:
        return transformer_impl.CPUOffloadPolicy(pin_memory=True)

    monkeypatch.setattr(transformer_impl.FSDPEngineWithLMHead, "_build_fsdp_module", build)
    engine = object.__new__(NoisyFSDPEngineCPU)
    assert engine._build_fsdp_module(None).pin_memory is False
    assert transformer_impl.CPUOffloadPolicy(pin_memory=True).pin_memory is True


def test_fsdp1_as_verl_calls_it_rejects_a_cpu(tmp_path: Path) -> None:
    """Why ``actor.strategy=fsdp`` is refused there: by itself FSDP1 would run."""
    import torch.distributed as dist
    import verl
    from torch.distributed.fsdp import FullyShardedDataParallel

    file = "workers/engine/fsdp/transformer_impl.py"
    source = (Path(verl.__path__[0]) / file).read_text(encoding="utf-8")
    assert source.count("sync_module_states=True") == 1
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        device = torch.device("cpu")
        with pytest.raises(ValueError, match="sync_module_states=True"):
            FullyShardedDataParallel(
                torch.nn.Linear(4, 4), device_id=device, sync_module_states=True
            )
        alone = FullyShardedDataParallel(torch.nn.Linear(4, 4), device_id=device)
        alone(torch.ones(2, 4)).sum().backward()
    finally:
        dist.destroy_process_group()
