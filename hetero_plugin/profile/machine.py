"""What machine this is, as far as it changes what operators compute."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = ["facts"]

_FLAGS = (
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ATEN_CPU_CAPABILITY",
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
    "VLLM_BATCH_INVARIANT",
    "VLLM_CPU_SGL_KERNEL",
)
"""Environment variables that choose kernels."""
_PACKAGES = ("transformers", "vllm", "triton", "flash-attn", "flashinfer-python", "torch-npu")


def facts(device: str) -> dict[str, str]:
    """Device, driver, versions and flags; what is not there is left out.

    Args:
        device: as torch names it: ``cpu``, ``cuda``, ``npu``.
    """
    found = {
        "device": _name(device),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": str(torch.get_num_threads()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": str(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
    }
    for name in _PACKAGES:
        if (there := _version(name)) is not None:
            found[name] = there
    found |= {name: os.environ[name] for name in _FLAGS if name in os.environ}
    return found | (_cuda() if device.startswith("cuda") else {})


def _version(name: str) -> str | None:
    """Of a package; None where it is not installed. vLLM's CPU wheel has another name."""
    try:
        return version(name)
    except PackageNotFoundError:
        # As it is told once vLLM's plugins are loaded: a recording is the same before and after.
        cpu = _version("vllm-cpu") if name == "vllm" else None
        return None if cpu is None else f"{cpu}+cpu"


def _name(device: str) -> str:
    kind = device.partition(":")[0]
    if kind == "cpu":
        return f"cpu: {_processor()}"
    module = getattr(torch, kind, None)  # torch.cuda; torch.npu once torch_npu is imported
    name = getattr(module, "get_device_name", None)
    return f"{kind}: {name()}" if callable(name) else kind


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return platform.processor() or platform.machine()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _cuda() -> dict[str, str]:
    matmul = torch.backends.cuda.matmul
    found = {
        "cuda": str(torch.version.cuda or torch.version.hip),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "cudnn": str(torch.backends.cudnn.version()),
        "tf32": str(matmul.allow_tf32),
        "bf16_reduced_precision": str(matmul.allow_bf16_reduced_precision_reduction),
        "fp16_reduced_precision": str(matmul.allow_fp16_reduced_precision_reduction),
    }
    driver = Path("/proc/driver/nvidia/version")
    if driver.is_file():
        found["driver"] = driver.read_text(encoding="utf-8").splitlines()[0].strip()
    return found
