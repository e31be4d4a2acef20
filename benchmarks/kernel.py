"""Cost of the operator beside a copy, dropout and the naive way; ratios within one run.

    python benchmarks/kernel.py [--threads 1] [--dtype bfloat16] [--json FILE]

The floor is the copy: each element is read and written once. Runs alternate; medians are printed.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from hetero_plugin import random
from hetero_plugin.errors import MODELS
from hetero_plugin.kernels import KERNEL, reference
from hetero_plugin.perturb import perturb


def main(
    rows: Annotated[int, typer.Option(help="Tokens.")] = 256,
    columns: Annotated[int, typer.Option(help="Features.")] = 9728,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    runs: Annotated[int, typer.Option(min=3, help="Alternating runs.")] = 15,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x = torch.randn(rows, columns).to(getattr(torch, dtype))
    out = torch.empty_like(x)
    keys = random.row_keys(torch.arange(rows), torch.arange(rows))
    clock = torch.tensor([random.clock_key(0, 0)])
    scales = torch.tensor([0.0, 0.05])
    segments = torch.tensor([[columns, random.site_key("benchmark", "output"), 0, 1]])
    off = torch.tensor([[columns, random.site_key("benchmark", "output"), 0, 0]])
    ways: dict[str, Callable[[], object]] = {
        "copy": lambda: out.copy_(x),
        "dropout": lambda: torch.nn.functional.dropout(x, 0.1, True),
        "naive: x + randn_like(x) * x.abs() * s": lambda: x + torch.randn_like(x) * x.abs() * 0.05,
        "ours, scale 0": lambda: perturb(x, keys, clock, scales, off),
    }
    for name, model in MODELS.items():
        if model.native:
            ways[f"ours, {name}"] = lambda name=name: perturb(
                x, keys, clock, scales, segments, name
            )
    ways["ours, relative_gaussian, nearest"] = lambda: perturb(
        x, keys, clock, scales, segments, stochastic=False
    )
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    few = x[:4]
    began = time.perf_counter()
    reference.perturb(few, keys, clock, scales, segments, "relative_gaussian", True)
    slow = (time.perf_counter() - began) / few.numel() * 1e9
    per_element = {name: statistics.median(t[1:]) / x.numel() * 1e9 for name, t in times.items()}
    per_element["reference (tensor operations)"] = slow
    naive = per_element["naive: x + randn_like(x) * x.abs() * s"]
    print(f"{KERNEL}, {threads} thread(s), {rows} x {columns} {dtype}, median of {runs - 1}\n")
    print("| way | ns/element | GB/s | copy = 1 | naive ÷ this |")
    print("|---|---|---|---|---|")
    for name, value in per_element.items():
        print(
            f"| {name} | {value:.2f} | {2 * x.element_size() / value:.2f} "
            f"| {value / per_element['copy']:.1f} | {naive / value:.1f} |"
        )
    if json_file is not None:
        record = {"kernel": KERNEL, "threads": threads, "dtype": dtype, "ns": per_element}
        json_file.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    typer.run(main)
