"""Builds the C++ kernel at first use, once for a machine, and loads it.

``python -m hetero_plugin.kernels.build`` builds it ahead of time. HETERO_NOISE_KERNEL=reference
leaves it unused; HETERO_NOISE_CACHE names another folder for the result; HETERO_NOISE_MARCH another
instruction set than this machine's (a compiler's name of it, such as ``haswell``).
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

log = logging.getLogger("hetero_noise")
SOURCES = Path(__file__).parent / "cpu"
_FLAGS = [
    "-O3", "-std=c++20", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=fast", "-Wno-psabi", "-DNDEBUG",
]  # fmt: skip


class NoCompiler(RuntimeError):
    """The machine has no C++ compiler."""


def _cpu_flags() -> str:
    """What the instruction set depends on: a cache shared by unlike machines must not mix them."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    except OSError:
        pass
    return platform.processor()


def compiler() -> str:
    """The C++ compiler: $CXX, g++ or clang++.

    Raises:
        NoCompiler: none is on the PATH.
    """
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and shutil.which(name):
            return name
    raise NoCompiler(
        "no C++ compiler found (looked for $CXX, g++, clang++, c++): hetero_noise computes with "
        "its reference kernel, which is right but some hundred times slower. Install one, "
        "e.g. `apt-get install g++`"
    )


def _architecture_flags() -> list[str]:
    wanted = os.environ.get("HETERO_NOISE_MARCH", "native")
    if platform.machine() in ("x86_64", "AMD64"):
        return [f"-march={wanted}", "-mprefer-vector-width=512"]
    return [f"-mcpu={wanted}"]


def _torch_paths() -> tuple[list[str], Path]:
    root = Path(torch.__file__).parent
    includes = [root / "include", root / "include" / "torch" / "csrc" / "api" / "include"]
    return [f"-I{path}" for path in includes], root / "lib"


def library_path() -> Path:
    """Where the built kernel lies: one file per source, torch, compiler and processor."""
    text = "\0".join(
        [path.read_text() for path in sorted(SOURCES.iterdir()) if path.suffix in (".h", ".cpp")]
        + [torch.__version__, compiler(), _cpu_flags(), *_FLAGS, *_architecture_flags()]
    )
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    cache = os.environ.get("HETERO_NOISE_CACHE")
    folder = Path(cache) if cache else Path.home() / ".cache" / "hetero_plugin"
    return folder / f"hetero_noise_{digest}.so"


def build() -> Path:
    """Compiles the kernel if no other process has, and gives its path.

    Raises:
        NoCompiler: see `compiler`.
        RuntimeError: the compiler failed; the message holds its output.
    """
    target = library_path()
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # engines start many processes at once
        if target.exists():
            return target
        log.info(
            "hetero_noise: compiling the CPU kernel, once for this machine (about half a minute)"
        )
        includes, libraries = _torch_paths()
        # Beside the target, so that the rename is atomic.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            output = Path(folder) / "kernel.so"
            command = [
                compiler(), *_FLAGS, *_architecture_flags(), *includes,
                f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
                str(SOURCES / "op.cpp"), "-o", str(output),
                f"-L{libraries}", "-ltorch_cpu", "-ltorch", "-lc10",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(
                    f"compiling the CPU kernel failed (exit {done.returncode}):\n"
                    f"{' '.join(command)}\n{done.stderr[-4000:]}"
                )
            output.rename(target)
    return target


if __name__ == "__main__":
    print(build())
