"""How the cost grows: with tokens, features and threads (the operator), layers and sites (a model).

    python benchmarks/scaling.py [--json FILE] [--plot FILE.svg]

Of the operator: ns an element beside a copy. Of a Hugging Face model in eager mode: a forward pass,
noisy ÷ clean, and what a site costs beside its elements.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hetero_plugin import disabled, wrap
from hetero_plugin.operator import perturb

sys.path.insert(0, str(Path(__file__).parent))
from common import alternate, machine, median, plot, ratios, save, table
from kernel import operands
from train import build

TOKENS, FEATURES, LAYERS = (1, 8, 64, 512, 4096), (64, 512, 4096, 16_384), (2, 4, 8, 16)
SCOPES = {
    "down_proj": ["*.down_proj"],
    "linear": ["linear"],
    "every kind": ["linear", "norm", "activation", "attention"],
}


def operator(sizes: dict[str, tuple[int, int]], dtype: torch.dtype, runs: int) -> dict[str, Any]:
    """ns an element of the operator and of a copy, by the name of a size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {}
    for name, (rows, columns) in sizes.items():
        given = operands(rows, columns, dtype, device)
        out = torch.empty_like(given[0])
        many = max(1, 100_000 // (rows * columns))  # short runs are timed by the hundred

        def ours(given: Any = given, many: int = many) -> None:
            for _ in range(many):
                perturb(*given)

        def copy(given: Any = given, out: Any = out, many: int = many) -> None:
            for _ in range(many):
                out.copy_(given[0])

        times = alternate({"ours": ours, "copy": copy}, runs)
        n = rows * columns * many
        found[name] = {way: statistics.median(t) / n * 1e9 for way, t in times.items()}
    return found


def of_model(layers: int, targets: list[str], dtype: str, runs: int) -> tuple[list[float], int]:
    """A forward pass of 2 x 128 tokens, noisy ÷ clean, run by run; and how many sites are noisy."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(layers, 512, dtype).eval().to(device)
    rule = {
        "targets": targets,
        "exclude": ["lm_head"] if "linear" in targets else [],
        "scale": 0.05,
    }
    wrap(model, {"rules": [rule]}, quiet=True)
    ids = torch.randint(0, 16_384, (2, 128), device=device)

    @torch.no_grad()
    def noisy() -> None:
        model(ids)

    @torch.no_grad()
    def clean() -> None:
        with disabled(model):
            model(ids)

    from hetero_plugin.hf import state_of

    times = alternate({"clean": clean, "noisy": noisy}, runs)
    return ratios(times, "clean")["noisy"], len(state_of(model).selected)


def main(
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    runs: Annotated[int, typer.Option(min=3, help="Alternating runs.")] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw model ratios.")] = None,
) -> None:
    """Print the tables."""
    most = torch.get_num_threads()
    kind = getattr(torch, dtype)
    print(f"{machine()}, {dtype}\n")
    record: dict[str, Any] = {}

    def show(title: str, found: dict[str, Any]) -> None:
        record[title] = found
        rows = [
            [name, f"{v['ours']:.2f}", f"{v['copy']:.2f}", f"{v['ours'] / v['copy']:.1f}"]
            for name, v in found.items()
        ]
        print(table([title, "ours, ns/element", "copy", "copy = 1"], rows) + "\n")

    show("tokens (x 896)", operator({str(t): (t, 896) for t in TOKENS}, kind, runs))
    show("features (x 64)", operator({str(f): (64, f) for f in FEATURES}, kind, runs))
    threads = {}
    for count in range(1, most + 1):
        torch.set_num_threads(count)
        threads[str(count)] = operator({"": (512, 4096)}, kind, runs)[""]
    torch.set_num_threads(most)
    show("threads (512 x 4096)", threads)

    rows, drawn = [], {}
    jobs: list[tuple[int, str]] = [(n, "linear") for n in LAYERS]
    jobs += [(8, scope) for scope in SCOPES if scope != "linear"]
    progress: Callable[[str], None] = lambda text: print(text, file=sys.stderr)  # noqa: E731
    for layers, scope in jobs:
        progress(f"a model of {layers} layers, {scope} ...")
        values, sites = of_model(layers, SCOPES[scope], dtype, runs)
        name = f"{layers} layers, {scope}"
        drawn[name] = values
        rows.append([str(layers), scope, str(sites), median(values)])
    print(table(["layers", "scope", "sites", "forward pass, noisy ÷ clean"], rows))
    save(json_file, {"dtype": dtype, **record, "models": drawn})
    plot(plot_file, drawn, "A forward pass (512 wide, 2 x 128 tokens)", "time ÷ clean")


if __name__ == "__main__":
    typer.run(main)
