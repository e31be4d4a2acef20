"""What verl calls on ``torch.cuda``, for a machine without an accelerator.

verl asks its platform for a device *module* and calls these functions on it. ``torch.cpu`` has
some of them; memory accounting and per-device random state do not exist there, so they answer
with nothing or zero. Names not listed here are looked up in ``torch.cpu``.
"""

from __future__ import annotations

from typing import Any

import torch


def is_available() -> bool:
    return True


def device_count() -> int:
    return 1


def current_device() -> int:
    return 0


def set_device(device: Any) -> None:
    pass


def synchronize(device: Any = None) -> None:
    pass


def get_device_name(device: Any = None) -> str:
    return "cpu"


def manual_seed(seed: int) -> None:
    torch.manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    torch.manual_seed(seed)


def get_rng_state(device: Any = None) -> torch.Tensor:
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
    torch.set_rng_state(state)


def empty_cache() -> None:
    pass


def ipc_collect() -> None:
    pass


def reset_peak_memory_stats(device: Any = None) -> None:
    pass


def reset_max_memory_allocated(device: Any = None) -> None:
    pass


def memory_allocated(device: Any = None) -> int:
    return 0


def memory_reserved(device: Any = None) -> int:
    return 0


def max_memory_allocated(device: Any = None) -> int:
    return 0


def max_memory_reserved(device: Any = None) -> int:
    return 0


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(available, total) bytes of the machine's memory."""
    import psutil

    memory = psutil.virtual_memory()
    return memory.available, memory.total


def __getattr__(name: str) -> Any:
    return getattr(torch.cpu, name)
