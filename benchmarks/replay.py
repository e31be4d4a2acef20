"""Profiles on activations: nanoseconds an element on one core, beside relative_gaussian.

    python benchmarks/replay.py [--rows 256] [--columns 4864] [--json FILE]

Time is the thread's own, the best of several turns in which the ways follow one another. Tables are
made up: small elements change in six of ten cases, as they do where an error is of the size of the
row; of others the share in the first column. Fresh: how much is drawn with the step.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hetero_plugin.errors.profile import Bin, Profile, Table, hold, replay_word
from hetero_plugin.kernels.formats import declare

sys.path.insert(0, str(Path(__file__).parent))
from common import machine, save, table

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_TURNS = 12


def made_up(changed: float, fresh: float) -> str:
    """The word of a profile in which the largest elements change with this probability."""

    def one(index: int) -> Bin:
        share = max(changed, 0.6 * 2.0 ** (-index / 2)) / 2
        below = (0.05 * share, 0.2 * share, share)
        return Bin(
            values=(-3, -2, -1, 0, 1, 2, 3),
            cumulative=(*below, *(1 - each for each in reversed(below)), 1.0),
            n=int(1000 * 2 ** (index / 2)) if index < 22 else 10,
        )

    bins = tuple(one(index) for index in range(30))
    profile = Profile(
        name="made up",
        tables=tuple(
            Table(
                kind="linear",
                dtype=str(dtype).removeprefix("torch."),  # type: ignore[arg-type]
                ks=(896,),
                bins=bins,
                fresh=fresh,
                n=1,
            )
            for dtype in DTYPES
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.profile"
        profile.write(path)
        hold(str(path), profile.digest)
    word = replay_word(profile.digest, "linear", 896, 0)
    declare(word)
    return word


def main(
    rows: Annotated[int, typer.Option(help="of the tensor")] = 256,
    columns: Annotated[int, typer.Option(help="of the tensor")] = 4864,
    json: Annotated[Path | None, typer.Option(help="write the numbers here")] = None,
) -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    ways = {
        (changed, fresh, scale): made_up(changed, fresh)
        for changed in (0.0002, 0.002, 0.02, 0.1, 0.4)
        for fresh, scale in ((0.0, 1.0), (0.0, 0.5), (0.2, 1.0))
    }
    found: list[dict[str, Any]] = []
    for dtype in DTYPES:
        x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)

        def seconds(word: str, scale: float, x: torch.Tensor = x) -> float:
            keys, clock = torch.arange(rows), torch.zeros(1, dtype=torch.int64)
            segments = torch.tensor([[columns, 5, 0, 0]])
            how = keys, clock, torch.tensor([scale]), segments, word, True
            begun = time.thread_time()
            torch.ops.hetero_noise.perturb(x, *how)
            return time.thread_time() - begun

        best: dict[Any, float] = {}
        for _ in range(_TURNS):
            for key, word, scale in (
                ("gaussian", "relative_gaussian", 0.05),
                *((key, word, key[2]) for key, word in ways.items()),
            ):
                best[key] = min(best.get(key, 1e9), seconds(word, scale))
        unit = 1e9 / x.numel()
        for changed, fresh, scale in ways:
            mine = best[changed, fresh, scale]
            found.append(
                {
                    "dtype": str(dtype).removeprefix("torch."),
                    "changed": changed,
                    "fresh": fresh,
                    "scale": scale,
                    "ns": mine * unit,
                    "gaussian": best["gaussian"] * unit,
                    "ratio": mine / best["gaussian"],
                }
            )
    print(machine())
    header = ["dtype", "changed", "fresh", "scale", "ns", "gaussian", "ratio"]
    rows_of = [[one["dtype"], *(f"{one[key]:.4g}" for key in header[1:])] for one in found]
    print(table(header, rows_of))
    if json is not None:
        save(json, {"machine": machine(), "found": found})


if __name__ == "__main__":
    typer.run(main)
