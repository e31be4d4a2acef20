"""``hetero-noise bench``: the benchmarks of the source tree, one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation import files

BENCHMARKS = {
    "formats": ("formats.py", "number formats beside compressed-tensors' and torchao's"),
    "kernel": ("kernel.py", "the operator beside a copy, dropout and the naive way; AQN's step"),
    "kernel-gpu": ("kernel_gpu.py", "the operator on a GPU beside a copy, scale 0, naive"),
    "floor": ("floor.py", "what the noise should cost on a GPU, from bytes and instructions"),
    "sites-ran": ("sites_ran.py", "what it costs to know that every site ran"),
    "sass": ("sass.py", "the CUDA kernels' machine code, counted without a device"),
    "alternatives": ("alternatives.py", "the CPU kernel beside Inductor's and numba's code"),
    "vllm": ("vllm_throughput.py", "decode and prefill of a vLLM engine"),
    "control": ("vllm_control.py", "a setting of a running engine"),
    "train": ("train.py", "a training step's time and peak memory"),
    "decode": ("decode.py", "a Hugging Face model's decode and prefill, as CUDA graphs"),
    "startup": ("startup.py", "the start of a vLLM engine"),
    "scaling": ("scaling.py", "tokens, features, threads, layers, sites"),
    "rounding": ("rounding.py", "what rounding leaves of a small error"),
}


def folder() -> Path:
    """Where the benchmarks are.

    Raises:
        ConfigError: the package was installed without its source tree.
    """
    found = Path(__file__).parents[2] / "benchmarks"
    if not found.is_dir():
        raise ConfigError(
            f"the benchmarks are not installed with the package (looked for {found}): run this in "
            "a clone of the source, after `make env` or `pip install -e .`"
        )
    return found


def command(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Which: {', '.join(BENCHMARKS)}. Default: all.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the tables (.md) and whatever else they save.")
    ] = Path("runs/bench"),
    again: Annotated[bool, typer.Option(help="Also those whose table is there.")] = False,
    list_them: Annotated[bool, typer.Option("--list", help="Say what there is.")] = False,
) -> None:
    """Run benchmarks on a quiet machine; each prints its table and saves it, numbers and a plot.

    One that is done is not run again, so an interrupted series goes on where it was.
    """
    if list_them:
        for name, (_, about) in BENCHMARKS.items():
            typer.echo(f"{name:10} {about}")
        return
    wanted = names or list(BENCHMARKS)
    unknown = [name for name in wanted if name not in BENCHMARKS]
    if unknown:
        raise ConfigError(
            f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}"
        )
    where = folder()
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for index, name in enumerate(wanted, 1):
        table = out / f"{name}.md"
        if table.exists() and not again:
            typer.echo(f"[{index}/{len(wanted)}] {name}: done before, see {table}", err=True)
            continue
        typer.echo(f"[{index}/{len(wanted)}] {name}: {BENCHMARKS[name][1]}", err=True)
        if not _run(where / BENCHMARKS[name][0], name, out, table):
            failed.append(name)
    if failed:
        typer.echo(f"hetero-noise bench: failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


def _run(script: Path, name: str, out: Path, table: Path) -> bool:
    """Runs one, copying its table to the screen and, once it is whole, into its file."""
    options = ["--json", str(out / f"{name}.json")]
    if "--plot" in script.read_text(encoding="utf-8"):
        options += ["--plot", str(out / f"{name}.svg")]
    child = subprocess.Popen(
        [sys.executable, str(script), *options], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        typer.echo(line, nl=False)
        lines.append(line)
    if child.wait():
        return False
    files.write_text(table, "".join(lines))
    return True
