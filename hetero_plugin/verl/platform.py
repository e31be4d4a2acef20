"""A verl platform for a machine without an accelerator: gloo, shared memory, a logical GPU.

Active with ``VERL_PLATFORM=cpu``, or without it where no accelerator is found. verl asks the
platforms in the order of their registration and its own come first, with ``nvidia-smi`` and
the like, so a CPU-only Ray actor on a GPU machine never lands here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase

from hetero_plugin.verl import cpu_device


def accelerator_present() -> bool:
    """True if torch sees a CUDA, XPU, NPU or MPS device in this process."""
    return torch.cuda.is_available() or torch.accelerator.is_available()


class PlatformCPU(PlatformBase):
    """Ray, FSDP2 and vLLM of one verl run on CPU cores only."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return cpu_device

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return not accelerator_present()

    def current_device(self) -> Any:
        # verl writes tensor.to(current_device()); an index would mean the first accelerator.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        # A logical resource: ray.init(num_gpus=N) declares it, and verl places its workers by it.
        return "GPU"

    def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
        return {"num_gpus": num_gpus}

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False  # verl then sends weights through shared memory

    def cudart(self) -> None:
        return None


def register(manager: ModuleType) -> None:
    """Adds the CPU platform to ``verl.plugin.platform.platform_manager``'s registry."""
    if manager.PlatformRegistry.get("cpu") is not PlatformCPU:
        manager.PlatformRegistry.register(platform="cpu")(PlatformCPU)


def is_cpu_run() -> bool:
    """True if this process's verl platform is the CPU one."""
    if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
        return True
    from verl.plugin.platform import get_platform

    return get_platform().device_name == "cpu"
