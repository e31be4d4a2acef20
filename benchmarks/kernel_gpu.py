"""The operator on a GPU beside a copy: scale 0, every error model, the naive way.

    python benchmarks/kernel_gpu.py [--dtype bfloat16] [--runs 30] [--json FILE]

Each way is captured in a CUDA graph and timed by events around replays, in turn with the others;
medians are printed. A small tensor is computed many times in one graph, since a single launch would
be measured otherwise, and then lies in the cache, as a layer's result does. The floor is what the
card's memory moves at its nominal rate, where PyTorch tells it. Needs PyTorch, Triton and nothing
else.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hetero_plugin import random
from hetero_plugin.errors import MODELS
from hetero_plugin.kernels import KERNEL_CUDA

sys.path.insert(0, str(Path(__file__).parent))
from common import machine, save, table

SCALE = 0.05
# Rows, columns, calls in a graph: a large prefill of a 32B model's widest layer, and a decode step.
SIZES = ((65_536, 17_920, 1), (64, 17_920, 50), (64, 1_536, 50))
COPY, NAIVE = "copy", "naive: x + randn_like(x) * x.abs() * s"
Work = Callable[[], object]


def ways(rows: int, columns: int, dtype: torch.dtype) -> dict[str, Work]:
    """What is timed, on tensors of one size; those in place write to one tensor."""
    x = torch.randn(rows, columns, device="cuda", dtype=dtype)
    y = torch.empty_like(x)
    keys = random.row_keys(torch.arange(rows), torch.arange(rows)).cuda()
    clock = torch.tensor([random.clock_key(0, 0)], device="cuda")
    scales = torch.tensor([0.0, SCALE], device="cuda")
    site = random.site_key("benchmark", "output")
    off, on = (torch.tensor([[columns, site, 0, slot]]) for slot in (0, 1))
    noise, noise_ = torch.ops.hetero_noise.perturb, torch.ops.hetero_noise.perturb_

    def both(name: str, error: str, segments: torch.Tensor, stochastic: bool = True) -> None:
        args = keys, clock, scales, segments, error, stochastic
        found[f"{name}, in place"] = lambda: noise_(y, *args)
        found[name] = lambda: noise(x, *args)

    found: dict[str, Work] = {COPY: lambda: y.copy_(x)}
    both("scale 0", "relative_gaussian", off)
    for name, model in MODELS.items():
        if model.native:
            both(name, name, on)
    both("relative_gaussian, nearest", "relative_gaussian", on, stochastic=False)
    found[NAIVE] = lambda: x + torch.randn_like(x) * x.abs() * SCALE
    found["dropout"] = lambda: torch.nn.functional.dropout(x, 0.1, True)
    return found


def captured(work: Work, calls: int, pool: Any) -> torch.cuda.CUDAGraph:
    """``calls`` of ``work`` as a graph; compiles what is to be compiled before.

    pool: memory of all graphs, which nobody reads the results of.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        for _ in range(calls):
            work()
    return graph


def seconds(graphs: dict[str, torch.cuda.CUDAGraph], calls: int, runs: int) -> dict[str, Any]:
    """Of one call of each way, ``runs`` times in turn; one round before is not counted."""
    found: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(runs + 1):
        for name, graph in graphs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            if turn:
                found[name].append(start.elapsed_time(end) / 1e3 / calls)
    return found


def nominal() -> float | None:
    """Bytes a second of the card's memory; None where PyTorch does not tell."""
    card = torch.cuda.get_device_properties()
    clock, bus = getattr(card, "memory_clock_rate", 0), getattr(card, "memory_bus_width", 0)
    return 2e3 * clock * bus / 8 if clock and bus else None


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="bfloat16", help="bfloat16, float16 or float32")
    parser.add_argument("--runs", type=int, default=30, help="alternating runs")
    parser.add_argument("--json", type=Path, default=None, help="save the numbers")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("Not measured: there is no CUDA device. benchmarks/kernel.py is for CPUs too.")
        save(arguments.json, {"seconds": {}})
        return
    dtype = getattr(torch, arguments.dtype)
    rate = nominal()
    print(f"{machine()}, {arguments.dtype}, kernel {KERNEL_CUDA}, medians of {arguments.runs} runs")
    if rate is not None:
        print(f"memory: {rate / 1e12:.2f} TB/s nominal")
    record: dict[str, Any] = {"dtype": arguments.dtype, "nominal": rate, "seconds": {}}
    for rows, columns, calls in SIZES:
        pool = torch.cuda.graph_pool_handle()
        graphs = {n: captured(w, calls, pool) for n, w in ways(rows, columns, dtype).items()}
        times = seconds(graphs, calls, arguments.runs)
        record["seconds"][f"{rows} x {columns}"] = times
        elements = rows * columns
        middle = {name: statistics.median(values) for name, values in times.items()}
        floor = 2 * dtype.itemsize * elements / rate if rate is not None else None
        lines = [
            [
                name,
                f"{value * 1e6:.2f}",
                f"{min(times[name]) * 1e6:.2f} to {max(times[name]) * 1e6:.2f}",
                f"{value / elements * 1e12:.2f}",
                f"{middle[COPY] / value:.2f}",
                f"{floor / value:.2f}" if floor is not None else "-",
            ]
            for name, value in middle.items()
        ]
        print(f"\n{rows} x {columns}, {calls} call(s) in a graph\n")
        head = ["way", "µs", "range", "ps an element", "copy ÷ this", "memory floor ÷ this"]
        print(table(head, lines), flush=True)
        del graphs
        torch.cuda.empty_cache()
    save(arguments.json, record)


if __name__ == "__main__":
    main()
