"""What rounding leaves of a relative error: nearest and stochastic against the exact accumulator.

The experiment that both imitate: a GEMM accumulated in float64, the error added there, rounded once
to bfloat16. Prints a Markdown table (docs/rounding.md holds it).

    python benchmarks/rounding.py [--dtype bfloat16] [--json FILE]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from hetero_plugin import random
from hetero_plugin.operator import perturb

SCALES = (1e-5, 1e-4, 1e-3, 2e-3, 1e-2, 5e-2, 1e-1)
ROWS, COLUMNS, INNER = 2048, 1024, 896


def measures(clean: torch.Tensor, noisy: torch.Tensor) -> dict[str, float]:
    """Share of elements changed, RMS relative error, bias in units of the RMS error, SQNR."""
    x, e = clean.double(), noisy.double() - clean.double()
    keep = x != 0
    rms = float((e[keep] / x[keep]).square().mean().sqrt())
    signal, noise = float(x.square().mean()), float(e.square().mean())
    return {
        "changed": float((e != 0).double().mean()),
        "rms_relative": rms,
        "bias": float((e * x.sign()).mean() / max(noise, 1e-300) ** 0.5),
        "sqnr_db": float("inf")
        if noise == 0
        else 10 * torch.log10(torch.tensor(signal / noise)).item(),
    }


def main(
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    seed: Annotated[int, typer.Option(help="Of the matrices and of the error.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
) -> None:
    """Print the table."""
    kind = getattr(torch, dtype)
    torch.manual_seed(seed)
    # Operands as a layer has them: already of the low dtype; products exact in float64.
    x = torch.randn(ROWS, INNER).to(kind).double()
    w = (torch.randn(COLUMNS, INNER) * INNER**-0.5).to(kind).double()
    exact = x @ w.T
    clean = exact.to(kind)
    rows = random.row_keys(torch.arange(ROWS), torch.arange(ROWS))
    clock = torch.tensor([random.clock_key(seed, 0)])
    site = random.site_key("benchmark", "output")
    z = random.normal(clock, torch.tensor([site]), rows, 0, COLUMNS, torch.float64)
    results = []
    print(f"{dtype}, {ROWS} x {COLUMNS} outputs of a GEMM with K = {INNER}, seed {seed}\n")
    print("| asked | changed: nearest | stochastic | exact | RMS: nearest | stochastic | exact |")
    print("|---|---|---|---|---|---|---|")
    for scale in SCALES:
        table = torch.tensor([0.0, scale])
        segments = torch.tensor([[COLUMNS, site, 0, 1]])
        found = {
            "nearest": perturb(clean, rows, clock, table, segments, stochastic=False),
            "stochastic": perturb(clean, rows, clock, table, segments, stochastic=True),
            "exact": (exact + z * exact.abs() * scale).to(kind),
        }
        row = {name: measures(clean, value) for name, value in found.items()}
        results.append({"scale": scale, **row})
        changed = " | ".join(f"{100 * row[name]['changed']:.3f} %" for name in row)
        rms = " | ".join(f"{row[name]['rms_relative']:.2e}" for name in row)
        print(f"| {scale:g} | {changed} | {rms} |")
    if json_file is not None:
        json_file.write_text(json.dumps({"dtype": dtype, "seed": seed, "rows": results}, indent=2))


if __name__ == "__main__":
    typer.run(main)
