"""What else could have been the CPU kernel: Inductor's code of the reference, and numba.

All three are to compute one thing, relative_gaussian on float32 rounded to nearest (numba has no
bfloat16), on one thread; the table says how far each is from the reference run step by step. This
is the measurement behind the choice of C++.

    python benchmarks/alternatives.py [--json FILE] [--plot FILE.svg]
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.kernels import reference
from hetero_plugin.operator import perturb

sys.path.insert(0, str(Path(__file__).parent))
from common import alternate, machine, plot, save, table
from kernel import SCALE, operands


def inductor(given: tuple[Any, ...]) -> Callable[[], Tensor]:
    """The reference's tensor arithmetic, compiled by PyTorch."""
    x, keys, clock, scales, segments = given
    columns, key, first, slot = segments[0].tolist()
    site = torch.tensor([key])

    @torch.compile(dynamic=False, fullgraph=True)
    def compute(x: Tensor, keys: Tensor, clock: Tensor, scale: Tensor) -> Tensor:
        return x + random.normal(clock, site, keys, first, columns) * scale * x.abs()

    return lambda: compute(x, keys, clock, scales[slot])


def by_numba(given: tuple[Any, ...]) -> Callable[[], Tensor]:
    """The same loops as the C++ kernel's portable path, compiled by numba."""
    import numba
    import numpy as np

    u32, u64, f32 = np.uint32, np.uint64, np.float32

    @numba.njit(inline="always")
    def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
        for _ in range(7):
            p0, p1 = u64(c0) * u64(0xD2511F53), u64(c2) * u64(0xCD9E8D57)
            c0, c1, c2, c3 = (
                u32(p1 >> u64(32)) ^ c1 ^ k0,
                u32(p1),
                u32(p0 >> u64(32)) ^ c3 ^ k1,
                u32(p0),
            )
            k0, k1 = u32(k0 + u32(0x9E3779B9)), u32(k1 + u32(0xBB67AE85))
        return c0, c1, c2, c3

    @numba.njit(inline="always")
    def pair(radius_word, angle_word):  # type: ignore[no-untyped-def]
        uniform = f32(radius_word) * f32(2.0**-32) + f32(2.0**-33)
        radius = f32(math.sqrt(f32(-2.0) * f32(math.log(uniform))))
        angle = f32(angle_word) * f32(2.0 * math.pi / 2.0**32)
        return radius * f32(math.cos(angle)), radius * f32(math.sin(angle))

    @numba.njit(fastmath={"contract", "nnan", "ninf"})
    def compute(x, keys, clock, site, scale, y):  # type: ignore[no-untyped-def]
        k0, k1 = u32((clock ^ (site >> 32)) & 0xFFFFFFFF), u32((clock >> 32) & 0xFFFFFFFF)
        for row in range(x.shape[0]):
            c1, c2 = u32(keys[row] & 0xFFFFFFFF), u32((keys[row] >> 32) & 0xFFFFFFFF)
            c3 = u32(site & 0xFFFFFFFF)
            for group in range(x.shape[1] // 128):
                for call in range(2):
                    base = group * 128 + call * 64
                    for lane in range(16):
                        block = u32(group * 16 + lane + (call << 30))
                        w0, w1, w2, w3 = philox(block, c1, c2, c3, k0, k1)
                        za, zb = pair(w0, w1)
                        zc, zd = pair(w2, w3)
                        at = base + lane
                        y[row, at] = x[row, at] + za * scale * abs(x[row, at])
                        y[row, at + 16] = x[row, at + 16] + zb * scale * abs(x[row, at + 16])
                        y[row, at + 32] = x[row, at + 32] + zc * scale * abs(x[row, at + 32])
                        y[row, at + 48] = x[row, at + 48] + zd * scale * abs(x[row, at + 48])

    x, keys, clock, _, segments = given
    site = int(segments[0, 1])
    out = torch.empty_like(x)
    arrays = x.numpy(), keys.numpy()

    def run() -> Tensor:
        compute(*arrays, int(clock), site, f32(SCALE), out.numpy())
        return out

    return run


def main(
    rows: Annotated[int, typer.Option(help="Tokens.")] = 256,
    columns: Annotated[int, typer.Option(help="Features, a multiple of 128.")] = 9728,
    runs: Annotated[int, typer.Option(min=3, help="Alternating runs.")] = 9,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw ns an element.")] = None,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    given = operands(rows, columns, torch.float32, "cpu")
    ours = lambda: perturb(*given, stochastic=False)  # noqa: E731
    ways: dict[str, Callable[[], Any]] = {"C++": ours, "Inductor": inductor(given)}
    if importlib.util.find_spec("numba") is not None:
        ways["numba"] = by_numba(given)
    exact = reference.perturb(*given, "relative_gaussian", False)
    gaps = {name: (way() - exact).abs().max().item() for name, way in ways.items()}
    times = alternate(ways, runs)
    each = {name: [t / (rows * columns) * 1e9 for t in seconds] for name, seconds in times.items()}
    middle = {name: statistics.median(values) for name, values in each.items()}
    print(f"{machine()}, float32, {rows} x {columns}, medians of {runs} runs\n")
    lines = [
        [name, f"{value:.2f}", f"{value / middle['C++']:.1f}", f"{gaps[name]:.1g}"]
        for name, value in middle.items()
    ]
    print(table(["way", "ns/element", "C++ = 1", "largest difference"], lines))
    save(json_file, {"ns": each, "differences": gaps})
    plot(plot_file, each, "Three ways to the same numbers, one thread", "ns an element")


if __name__ == "__main__":
    typer.run(main)
