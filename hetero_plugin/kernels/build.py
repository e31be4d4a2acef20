"""Builds the C++ kernel at first use, once for a machine, and loads it.

``python -m hetero_plugin.kernels.build`` builds it ahead of time. HETERO_NOISE_KERNEL=reference
leaves it unused; HETERO_NOISE_CACHE names another folder for the result (see ``cache``);
HETERO_NOISE_MARCH another instruction set than this machine's (a compiler's name of it, such as
``haswell``); HETERO_NOISE_BUILD_SECONDS how long a compilation may take.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from hetero_plugin.kernels import cache

log = logging.getLogger("hetero_noise")
SOURCES = Path(__file__).parent / "cpu"
_FLAGS = [
    "-O3", "-std=c++20", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=fast", "-Wno-psabi", "-DNDEBUG",
]  # fmt: skip


_SECONDS = 600.0
_VERSION_SECONDS = 30.0
# Another process may have started to compile just before its own time began to count.
_WAIT_MORE = 30.0


class NoCompiler(RuntimeError):
    """The machine has no C++ compiler."""


class BuildFailed(RuntimeError):
    """The kernel could not be compiled, or not in time."""


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


@functools.cache
def compiler_version(name: str) -> str:
    """What the compiler says of itself: an update makes other code of the same sources.

    Raises:
        BuildFailed: it does not say.
    """
    return _run([name, "--version"], _VERSION_SECONDS).strip()


def library_path() -> Path:
    """Where the built kernel lies: one file per source, torch, compiler, its version, processor.

    Raises:
        NoCompiler: see `compiler`.
        BuildFailed: see `compiler_version`.
        UnsafeCache: there is no folder for it.
    """
    name = compiler()
    text = "\0".join(
        [path.read_text() for path in sorted(SOURCES.iterdir()) if path.suffix in (".h", ".cpp")]
        + [torch.__version__, name, compiler_version(name), _cpu_flags()]
        + [*_FLAGS, *_architecture_flags()]
    )
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return cache.folder() / f"hetero_noise_{digest}.so"


def build() -> Path:
    """Compiles the kernel if no other process has, and gives its path.

    Raises:
        NoCompiler: see `compiler`.
        BuildFailed: the compiler failed (the message holds its output) or took too long, or
            another process that compiles did.
        UnsafeCache: another user could have written the library, or could swap it.
        OSError: the cache folder can't be made or written.
    """
    target = library_path()
    if cache.usable(target):
        return target
    cache.make(target.parent)
    seconds = _seconds()
    try:
        with cache.locked(target.with_suffix(".lock"), seconds + _WAIT_MORE):
            # Engines start many processes at once: one compiles, the others find its result.
            if not cache.usable(target):
                _compile(target, seconds)
    except TimeoutError as error:
        raise BuildFailed(
            f"the CPU kernel was not compiled: {error}. End that process, or wait for it"
        ) from None
    return target


def _compile(target: Path, seconds: float) -> None:
    log.info("hetero_noise: compiling the CPU kernel, once for this machine (about half a minute)")
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
        _run(command, seconds)
        output.chmod(0o700)  # whatever the umask: see `cache.usable`
        output.rename(target)


def _seconds() -> float:
    text = os.environ.get("HETERO_NOISE_BUILD_SECONDS", "")
    try:
        seconds = float(text or _SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise BuildFailed(
            f"HETERO_NOISE_BUILD_SECONDS is {text!r}; it should be a number of seconds > 0"
        )
    return seconds


def _run(command: Sequence[str], seconds: float) -> str:
    """What a command prints; its whole process group is ended when time is up.

    Raises:
        BuildFailed: it failed, or took too long.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},  # a version is part of the key, in whatever language
        start_new_session=True,  # a compiler starts others, which would live on
    ) as process:
        try:
            out, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise BuildFailed(
                f"{command[0]} took longer than {seconds:g} s and was ended "
                "(HETERO_NOISE_BUILD_SECONDS sets the limit)"
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise BuildFailed(
            f"compiling the CPU kernel failed (exit {process.returncode}):\n"
            f"{' '.join(command)}\n{said[-4000:]}"
        )
    return out


if __name__ == "__main__":
    print(build())
