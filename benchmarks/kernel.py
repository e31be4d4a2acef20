"""The operator beside a copy, dropout and the naive way, over error models and sizes; AQN's step.

    python benchmarks/kernel.py [--threads 1] [--dtype bfloat16] [--json FILE] [--plot FILE.svg]

The floor is the copy: each element is read and written once. Runs alternate; medians are printed.
On a machine with CUDA everything is there.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from hetero_plugin import random
from hetero_plugin.errors import MODELS
from hetero_plugin.kernels import reference
from hetero_plugin.operator import perturb

sys.path.insert(0, str(Path(__file__).parent))
from common import alternate, machine, plot, save, table

NAIVE = "naive: x + randn_like(x) * x.abs() * s"
SCALE = 0.05
SIZES = ((1, 896), (64, 896), (64, 4864), (256, 9728), (2048, 4096))
Ways = dict[str, Callable[[], object]]


def operands(rows: int, columns: int, dtype: torch.dtype, device: str, slot: int = 1) -> tuple:
    """x, row keys, clock, scales, segments; the scale of slot 0 is 0."""
    site = random.site_key("benchmark", "output")
    return (
        torch.randn(rows, columns, device=device).to(dtype),
        random.row_keys(torch.arange(rows), torch.arange(rows)).to(device),
        torch.tensor([random.clock_key(0, 0)], device=device),
        torch.tensor([0.0, SCALE], device=device),
        torch.tensor([[columns, site, 0, slot]]),
    )


def of_size(rows: int, columns: int, dtype: torch.dtype, device: str, every: bool) -> Ways:
    """Copy, naive and ours; with ``every``, all error models and more to compare with."""
    on, off = (operands(rows, columns, dtype, device, slot) for slot in (1, 0))
    x, out = on[0], torch.empty_like(on[0])
    ways: Ways = {
        "copy": lambda: out.copy_(x),
        NAIVE: lambda: x + torch.randn_like(x) * x.abs() * SCALE,
        "ours, relative_gaussian": lambda: perturb(*on),
    }
    if every:
        ways |= {
            "dropout": lambda: torch.nn.functional.dropout(x, 0.1, True),
            "ours, scale 0": lambda: perturb(*off),
            "ours, relative_gaussian, nearest": lambda: perturb(*on, stochastic=False),
        }
        for name, model in MODELS.items():
            if model.native and name != "relative_gaussian":
                ways[f"ours, {name}"] = lambda name=name: perturb(*on, name)  # type: ignore[misc]
    return ways


def aqn(device: str) -> Ways:
    """AQN's step at the shapes of a 1.5B model: 57 norms of 1,536 features."""
    from hetero_plugin.aqn import AQNController
    from hetero_plugin.config import AQNConfig, NoiseConfig
    from hetero_plugin.sites import sites_from_config
    from hetero_plugin.state import NoiseState

    shape = {
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    }
    config = AQNConfig(schedule="constant", sigma_start=0.01, total_steps=1000)
    state = NoiseState(NoiseConfig(rules=(), aqn=config), sites_from_config(shape), device)
    controller = AQNController(config, state.attach_aqn())
    assert len(controller.offsets.sites) == 57

    def step() -> None:
        controller.step(7)  # gives σ, which is not a time

    return {"AQN step": step}


def main(
    rows: Annotated[int, typer.Option(help="Tokens, of the table of error models.")] = 256,
    columns: Annotated[int, typer.Option(help="Features, there.")] = 9728,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    runs: Annotated[int, typer.Option(min=3, help="Alternating runs.")] = 15,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw ns an element.")] = None,
) -> None:
    """Print the tables."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, dtype)
    print(f"{machine()}, {dtype}, medians of {runs} runs\n")

    times = alternate(of_size(rows, columns, kind, device, every=True), runs)
    n = rows * columns
    each = {name: [t / n * 1e9 for t in seconds] for name, seconds in times.items()}
    few = operands(4, columns, kind, device)
    slow = alternate({"reference": lambda: reference.perturb(*few, "relative_gaussian", True)}, 3)[
        "reference"
    ]
    each["reference (tensor operations)"] = [t / (4 * columns) * 1e9 for t in slow]
    middle = {name: statistics.median(values) for name, values in each.items()}
    lines = [
        [
            name,
            f"{value:.2f}",
            f"{2 * kind.itemsize / value:.2f}",
            f"{value / middle['copy']:.1f}",
            f"{middle[NAIVE] / value:.1f}",
        ]
        for name, value in middle.items()
    ]
    print(f"{rows} x {columns}\n")
    print(table(["way", "ns/element", "GB/s", "copy = 1", "naive ÷ this"], lines))

    sizes: dict[str, dict[str, float]] = {}
    lines = []
    for size in SIZES:
        found = alternate(of_size(*size, kind, device, every=False), runs)
        per = {w: statistics.median(t) / (size[0] * size[1]) * 1e9 for w, t in found.items()}
        sizes["x".join(map(str, size))] = per
        ours = per["ours, relative_gaussian"]
        lines.append(
            [
                f"{size[0]} x {size[1]}",
                *(f"{per[w]:.2f}" for w in ("copy", NAIVE, "ours, relative_gaussian")),
                f"{per[NAIVE] / ours:.1f}",
            ]
        )
    print()
    print(table(["tokens x features", "copy", "naive", "ours (ns/element)", "naive ÷ ours"], lines))

    steps = alternate(aqn(device), runs)["AQN step"]
    print(f"\nAQN's step, 57 norms of 1,536 features: {statistics.median(steps) * 1e3:.3f} ms")
    save(json_file, {"dtype": dtype, "ns": each, "sizes": sizes, "aqn_seconds": steps})
    shown = {name: each[name] for name in each if "reference" not in name}
    plot(plot_file, shown, f"The operator, {dtype}, {threads} thread(s)", "ns an element")


if __name__ == "__main__":
    typer.run(main)
