"""What the benchmarks share: alternating runs, a table of ratios, JSON, a plot."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hetero_plugin.kernels import KERNEL, KERNEL_CUDA

Ways = dict[str, Callable[[], object]]


def alternate(ways: Ways, runs: int) -> dict[str, list[float]]:
    """Seconds of each way, run in turn so that a slow minute of the machine hits all of them.

    One round to warm up is not counted. On a CUDA device each run is waited for. A way that has
    to prepare something returns its own seconds (`timed`).
    """
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(runs + 1):
        for name, way in ways.items():
            wait()
            began = time.perf_counter()
            own = way()
            wait()
            if turn:
                elapsed = time.perf_counter() - began
                times[name].append(own if isinstance(own, float) else elapsed)
    return times


def timed(work: Callable[[], object]) -> float:
    """Seconds of ``work`` alone."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def ratios(times: dict[str, list[float]], base: str) -> dict[str, list[float]]:
    """Each run's time over that of ``base`` in the same round."""
    return {
        name: [t / b for t, b in zip(each, times[base], strict=True)]
        for name, each in times.items()
    }


def machine() -> dict[str, Any]:
    """What the numbers depend on, without naming the machine."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "kernel": KERNEL_CUDA if cuda else KERNEL,
        "device": cuda or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def median(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def save(path: Path | None, record: dict[str, Any]) -> None:
    """Writes JSON, if there is a path."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **record}, indent=2), encoding="utf-8")


def plot(path: Path | None, values: dict[str, list[float]], title: str, unit: str) -> None:
    """Horizontal bars of medians with the range as a line, if there is a path."""
    if path is None:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(values)[::-1]
    middle = [statistics.median(values[name]) for name in names]
    low = [m - min(values[name]) for m, name in zip(middle, names, strict=True)]
    high = [max(values[name]) - m for m, name in zip(middle, names, strict=True)]
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(names) + 1.2), layout="constrained")
    axes.barh(names, middle, xerr=[low, high], color="#4477aa")
    axes.set_title(title)
    axes.set_xlabel(unit)
    figure.savefig(path)
    pyplot.close(figure)
