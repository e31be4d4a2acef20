"""Products added up as matrix units do: time a product, and how far the mode chunk is from exact.

    python benchmarks/accumulate.py [--threads 1] [--rows 256] [--json FILE]

Beside PyTorch's own float32 product and, where it is on the path, mmasim. The best of five runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from hetero_plugin.config import Accumulate
from hetero_plugin.errors.accumulate import accumulate, arithmetic_of
from hetero_plugin.kernels.product import product

sys.path.insert(0, str(Path(__file__).parent))
from common import machine, save, table

WAYS = {
    **{name: {"hardware": name} for name in ("volta", "ampere", "hopper", "cdna2", "cdna3")},
    "hopper, e4m3": {"hardware": "hopper", "operands": "e4m3"},
    "hopper, split 4": {"hardware": "hopper", "split_k": 4},
    "float32, one by one": {},
    "hopper, mode chunk": {"hardware": "hopper", "mode": "chunk"},
}


def best(run: Callable[[], object], times: int = 5) -> float:
    """Seconds; of one thread those that it had a processor, so that a busy machine counts less."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    found = []
    for _ in range(times):
        start = clock()
        run()
        found.append(clock() - start)
    return min(found)


def operands(rows: int, k: int, columns: int, positive: bool = False) -> tuple:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, k, generator=g), torch.randn(columns, k, generator=g)
    return (a.abs(), b.abs()) if positive else (a, b)


def main(
    threads: Annotated[int, typer.Option(help="threads")] = 1,
    rows: Annotated[int, typer.Option(help="tokens")] = 256,
    json: Annotated[Path | None, typer.Option(help="where the numbers go")] = None,
) -> None:
    torch.set_num_threads(threads)
    print(machine())
    record: dict[str, dict[str, float]] = {"ns a product": {}, "chunk beside exact": {}}
    shapes = ((rows, 896, 896), (rows, 4864, 896), (1, 896, 4864))
    lines = []
    for name, options in WAYS.items():
        line = [name]
        for m, k, n in shapes:
            dtype = torch.float16 if name == "volta" else torch.bfloat16
            a, b = (t.to(dtype) for t in operands(m, k, n))
            words = Accumulate(**options).words
            ns = best(lambda a=a, b=b, w=words: product(a, b, w)) * 1e9 / (m * k * n)
            record["ns a product"][f"{name} {m}x{k}x{n}"] = ns
            line.append(f"{ns:.3g}")
        lines.append(line)
    m, k, n = 32, 896, 224
    a, b = operands(m, k, n)
    others: dict[str, Callable[[], object]] = {
        "torch, float32": lambda: a @ b.T,
        "float64 reference, hopper": lambda: accumulate(
            a.bfloat16().float(),
            b.bfloat16().float(),
            arithmetic_of("bfloat16", hardware="hopper").numbers,
        ),
    }
    try:
        from mmasim.nv_ptx import WGMMA
    except ImportError:
        print("mmasim is not on the path and is left out")
    else:
        unit = WGMMA("Hopper", "m64n64k16.f32.bf16.bf16").arithmetic_op
        others["mmasim, hopper"] = lambda: unit(a.bfloat16(), b.bfloat16().T, torch.zeros(m, n))
    for name, run in others.items():
        ns = best(run) * 1e9 / (m * k * n)
        record["ns a product"][name] = ns
        lines.append([name, f"{ns:.3g} ({m} × {k} × {n})", "", ""])
    print(table(["ns a product", *(f"{m} × {k} × {n}" for m, k, n in shapes)], lines))
    lines = []
    for positive in (False, True):
        for hardware in ("ampere", "hopper"):
            for k in (448, 896, 4864):
                a, b = (t.bfloat16() for t in operands(64, k, 128, positive))
                exact = a.double() @ b.double().T
                sizes = []
                for mode in ("exact", "chunk"):
                    words = Accumulate(hardware=hardware, mode=mode).words
                    error = product(a, b, words).double() - exact
                    sizes.append(float(error.norm() / exact.norm()))
                name = f"{hardware}, K = {k}{', positive' if positive else ''}"
                record["chunk beside exact"][name] = sizes[1] / sizes[0]
                lines.append(
                    [name, f"{sizes[0]:.2e}", f"{sizes[1]:.2e}", f"{sizes[1] / sizes[0]:.2f}"]
                )
    print(table(["relative RMS error", "exact", "chunk", "ratio"], lines))
    if json is not None:
        save(json, record)


if __name__ == "__main__":
    typer.run(main)
