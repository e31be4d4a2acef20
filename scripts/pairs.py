"""Records pairs of machines that one machine can be: what docs/profiles.md tells of.

    python -m scripts.pairs --model FOLDER --text LICENSE --out FOLDER [NAME …]

One recording after another, each in a process of its own; what is there already is left. The first
is of this machine as it is, all others are of its inputs. Some 50 MB for the first and 25 MB for
each other of a 0.5B checkpoint, at nine layers' worth of operators.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LAYERS = "0,3,6,9,12,15,18,21,outside"


@dataclass(frozen=True)
class Machine:
    """One machine that this one can be made to be.

    Args:
        about: what it is, beside the first.
        options: of ``hetero-noise profile record``.
        inputs: the recording whose inputs it is run on; empty: it reads the text.
        environment: of its process alone.
    """

    about: str
    options: tuple[str, ...] = ()
    inputs: str = "plain"
    environment: Mapping[str, str] = field(default_factory=dict)


def _as(word: str, about: str, **environment: str) -> Machine:
    return Machine(about, ("--as", word), environment=environment)


MACHINES: dict[str, Machine] = {
    "plain": Machine("this machine", inputs=""),
    "fp32-gemm": _as("fp32-gemm", "linear layers in float32"),
    "no-onednn": _as("no-onednn", "torch's own kernels"),
    "avx512": _as("plain", "oneDNN without its bfloat16 instructions",
                  ONEDNN_MAX_CPU_ISA="AVX512_CORE"),
    "threads-1": _as("threads:1", "one thread"),
    "compiled": _as("compiled", "each operator compiled"),
    "rows-1": _as("rows:1", "one row at a time"),
    "rows-32": _as("rows:32", "32 rows at a time"),
    "hopper": _as("accumulate:hopper", "matrix units of Hopper"),
    "ampere": _as("accumulate:ampere", "matrix units of Ampere"),
    "gaussian": _as("gaussian:0.002", "a control: relative Gaussian error of 0.2 %"),
    "fused": Machine("norms and activations fused, in Hugging Face",
                     ("--fused", "--targets", "norm,activation"), inputs=""),
    "vllm": Machine("vLLM", ("--engine", "vllm")),
    "vllm-fused": Machine("vLLM's fused norms and activations", ("--engine", "vllm"), "fused"),
}  # fmt: skip
"""In the order that they are recorded in."""
COMMAND = [sys.executable, "-c", "from hetero_plugin.cli import app; app()", "profile", "record"]


def record(name: str, model: Path, text: Path, folder: Path) -> Path:
    """Records one machine, if that is not done yet; its file.

    Raises:
        CalledProcessError: it could not be recorded.
    """
    out = folder / f"{name}.rec"
    if out.exists():
        return out
    machine = MACHINES[name]
    given = ["--model", str(model), "--out", str(out), *machine.options]
    if machine.inputs:
        given += ["--replay-inputs", str(record(machine.inputs, model, text, folder))]
    else:
        given += ["--text", str(text), "--layers", LAYERS]
    print(f"{name}: {machine.about}", flush=True)
    began = time.monotonic()
    subprocess.run([*COMMAND, *given], check=True, env={**os.environ, **machine.environment})
    print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return out


def main() -> None:
    """Records what is asked for, or everything; exits with 1 if one could not be recorded."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MACHINES))
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in MACHINES]
    if unknown:
        parser.error(f"{', '.join(unknown)}: should be among {', '.join(MACHINES)}")
    given.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in given.names or MACHINES:
        try:
            record(name, given.model, given.text, given.out)
        except subprocess.CalledProcessError:
            failed.append(name)
    if failed:
        sys.exit(f"not recorded: {', '.join(failed)}")


if __name__ == "__main__":
    main()
