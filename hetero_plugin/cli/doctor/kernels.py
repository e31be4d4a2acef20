"""``hetero-noise doctor``: the kernels of this machine, and what builds them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from hetero_plugin.cli.doctor.findings import BROKEN, GOOD, LACKING, Finding

_CACHE_REMEDY = "a kernel that is not in it can't be built; HETERO_NOISE_CACHE names another folder"


def kernels() -> Iterator[Finding]:
    """The compiler, the CPU kernel and the CUDA kernel, each if this machine needs it."""
    import torch

    gpu = torch.cuda.is_available()
    # On a GPU the noise is Triton's code: what is missing for the CPU's is worth a line, no more.
    wrong = LACKING if gpu else BROKEN
    yield from _compiler(wrong, gpu)
    yield _cache()
    yield _cpu(wrong)
    yield from _cuda(gpu)


def _compiler(wrong: str, gpu: bool) -> Iterator[Finding]:
    from hetero_plugin.kernels import build

    try:
        name = build.compiler()
        yield Finding(GOOD, "compiler", f"{name}, {build.compiler_version(name).splitlines()[0]}")
    except build.NoCompiler:
        lost = "noise on the CPU takes the slow path"
        if not gpu:
            lost = "vLLM can't compile on a CPU, and the noise takes the slow path"
        yield Finding(
            wrong, "compiler", f"no C++ compiler: {lost}", "apt-get install g++, or set CXX"
        )
    except (build.BuildFailed, OSError, IndexError) as error:
        yield Finding(wrong, "compiler", f"{' '.join(str(error).split())}", "set CXX to another")


def _cpu(wrong: str) -> Finding:
    from hetero_plugin.kernels import KERNEL, WHY_REFERENCE

    if KERNEL != "reference":
        return Finding(GOOD, "kernel", KERNEL)
    if os.environ.get("HETERO_NOISE_KERNEL") == "reference":
        return Finding(GOOD, "kernel", "reference, as HETERO_NOISE_KERNEL says")
    why = WHY_REFERENCE.splitlines()[0][:200]
    return Finding(wrong, "kernel", f"reference: right but slow: {why}", "see the lines above")


def _cuda(gpu: bool) -> Iterator[Finding]:
    from hetero_plugin.kernels import KERNEL_CUDA

    if not gpu:
        yield Finding(LACKING, "CUDA kernel", "no GPU")
    elif KERNEL_CUDA != "reference":
        yield Finding(GOOD, "CUDA kernel", KERNEL_CUDA)
        # Triton compiles a launcher in C for every kernel.
        if not any(shutil.which(name) for name in (os.environ.get("CC") or "gcc", "clang")):
            yield Finding(
                BROKEN,
                "CUDA kernel",
                "Triton finds no C compiler (looked for $CC, gcc, clang)",
                "apt-get install gcc, or set CC",
            )
    elif os.environ.get("HETERO_NOISE_KERNEL") == "reference":
        yield Finding(GOOD, "CUDA kernel", "reference, as HETERO_NOISE_KERNEL says")
    else:
        detail = "reference: right but slow: this torch has no CUDA, or Triton is not installed"
        yield Finding(BROKEN, "CUDA kernel", detail, "pip install triton")


def _cache() -> Finding:
    """The folder that the built kernel is loaded from: whose it is, and who can write there."""
    from hetero_plugin.kernels import cache

    try:
        folder = cache.folder()
        cache.check(folder)
        for library in sorted(folder.glob("hetero_noise_*.so")):
            cache.usable(library)
    except FileNotFoundError:
        return Finding(GOOD, "kernel cache", f"{folder} is not there yet")
    except (RuntimeError, OSError) as error:
        return Finding(BROKEN, "kernel cache", str(error))
    if not os.access(folder, os.W_OK):
        return Finding(LACKING, "kernel cache", f"{folder} can't be written", _CACHE_REMEDY)
    return Finding(GOOD, "kernel cache", str(folder))
