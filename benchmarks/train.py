"""A training step of a Hugging Face model, noisy beside clean: time as a ratio, and peak memory.

    python benchmarks/train.py [--layers 14] [--hidden 768] [--json FILE] [--plot FILE.svg]

The naive way is what people write: hooks that add randn_like(y) * y.abs() * s to every linear
layer's output and to its gradient. Peak memory is that of a process which does nothing else; with
--memory-only nothing is timed, and the machine may be busy. Where torchao is installed
(pip install torchao), its fake quantisation of the same linear layers is a peer: weights and
inputs in int8 or float8, forward alone, straight-through gradients.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from hetero_plugin import unwrap, wrap

sys.path.insert(0, str(Path(__file__).parent))
from common import alternate, machine, median, plot, ratios, save, table, timed

SCALE = 0.05
RULE = {"targets": ["linear"], "exclude": ["lm_head"], "scale": SCALE}
SPECS: dict[str, Any] = {
    "ours, forward": {"rules": [{**RULE, "direction": "forward"}]},
    "ours, forward and backward": {"rules": [{**RULE, "direction": "both"}]},
    "ours, every kind, both": {
        "rules": [
            {
                "targets": ["linear", "norm", "activation", "attention"],
                "scale": SCALE,
                "direction": "both",
            }
        ]
    },
    "ours, all but attention, both": {
        "rules": [
            {
                "targets": ["linear", "norm", "activation"],
                "scale": SCALE,
                "direction": "both",
            }
        ]
    },
    "ours, inputs and weights": {
        "rules": [{**RULE, "point": "input"}, {**RULE, "point": "weight"}]
    },
    "ours, scale 0": {"rules": [{**RULE, "scale": 0.0, "direction": "both"}]},
}
NAIVE = "naive hooks, forward and backward"
PEERS = {"torchao QAT, int8": "int8", "torchao QAT, float8": "float8"}
HAS_PEERS = importlib.util.find_spec("torchao") is not None
WAYS = ("clean", *SPECS, NAIVE, *(PEERS if HAS_PEERS else ()))


def build(layers: int, hidden: int, dtype: str) -> nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=16_384,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=max(1, hidden // 64 // 3),
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).to(getattr(torch, dtype)).train()


def _error(y: Tensor) -> Tensor:
    return y + torch.randn_like(y) * y.abs() * SCALE


def hook(model: nn.Module) -> list[Any]:
    """The naive way; its handles."""
    handles: list[Any] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            handles.append(module.register_forward_hook(lambda m, x, y: _error(y)))
            handles.append(
                module.register_full_backward_hook(
                    lambda m, gx, gy: tuple(None if g is None else _error(g) for g in gx)
                )
            )
    return handles


def fake_quantise(model: nn.Module, number: str) -> dict[str, nn.Module]:
    """torchao's layers in the place of the linear ones; those that they replaced, by name."""
    from torchao.quantization import PerRow, quantize_
    from torchao.quantization.qat import (
        Float8FakeQuantizeConfig,
        IntxFakeQuantizeConfig,
        QATConfig,
    )

    replaced = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }
    float8 = Float8FakeQuantizeConfig(dtype=torch.float8_e4m3fn, granularity=PerRow())
    rows = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    channels = IntxFakeQuantizeConfig(torch.int8, "per_channel", is_symmetric=True)
    inputs, weights = (rows, channels) if number == "int8" else (float8, float8)
    quantize_(
        model,
        QATConfig(activation_config=inputs, weight_config=weights, step="prepare"),
        filter_fn=lambda module, name: name in replaced,
    )
    return replaced


def step(model: Any, ids: Tensor) -> None:
    model(ids, labels=ids).loss.backward()
    model.zero_grad(set_to_none=False)


def way(model: Any, ids: Tensor, name: str) -> Callable[[], float]:
    """One training step in that way, on a model that is clean before and after."""
    work = partial(step, model, ids)

    def run() -> float:
        if name == "clean":
            return timed(work)
        if name == NAIVE:
            handles = hook(model)
            seconds = timed(work)
            for handle in handles:
                handle.remove()
            return seconds
        if name in PEERS:
            replaced = fake_quantise(model, PEERS[name])
            seconds = timed(work)
            for layer, module in replaced.items():
                model.set_submodule(layer, module)
            return seconds
        wrap(model, SPECS[name], quiet=True)
        seconds = timed(work)
        unwrap(model)
        return seconds

    return run


def _peak_resident() -> int:
    """Bytes; not getrusage's, which a process inherits from the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main(
    layers: Annotated[int, typer.Option(help="Decoder layers.")] = 14,
    hidden: Annotated[int, typer.Option(help="Hidden size.")] = 768,
    batch: Annotated[int, typer.Option(help="Sequences.")] = 2,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 256,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    runs: Annotated[int, typer.Option(min=3, help="Alternating runs.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw the ratios.")] = None,
    memory_only: Annotated[bool, typer.Option("--memory-only", help="Time nothing.")] = False,
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(layers, hidden, dtype).to(device)
    ids = torch.randint(0, 16_384, (batch, length), device=device)
    if only is not None:  # a process of one way: what its memory peaks at
        run = way(model, ids, only)
        for _ in range(3):
            run()
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else _peak_resident()
        print(json.dumps(peak))
        return
    parameters = sum(p.numel() for p in model.parameters())
    times: dict[str, list[float]] = {name: [float("nan")] for name in WAYS}
    if not memory_only:
        times = alternate({name: way(model, ids, name) for name in WAYS}, runs)
    over = ratios(times, "clean")
    settings = ["--layers", layers, "--hidden", hidden, "--batch", batch, "--length", length]
    settings += ["--dtype", dtype, "--threads", threads]
    memory: dict[str, float] = {}
    for name in WAYS:
        print(f"peak memory: {name} ...", file=sys.stderr)
        command = [sys.executable, __file__, *map(str, settings), "--only", name]
        # Freed tensors go back to the system at once: peaks of tensors, not of malloc's arenas.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        out = done.stdout
        memory[name] = float(out.splitlines()[-1])
    if not HAS_PEERS:
        print("torchao is not installed: no row of a fake quantisation (pip install torchao)\n")
    print(f"{parameters / 1e6:.0f} M parameters, {batch} x {length} tokens, {dtype}, {machine()}\n")
    rows = [
        [
            name,
            f"{statistics.median(times[name]):.3f}",
            median(over[name]),
            f"{memory[name] / 2**20:.0f}",
            f"{memory[name] / memory['clean']:.3f}",
        ]
        for name in WAYS
    ]
    print(table(["way", "s/step", "time ÷ clean", "peak MiB", "memory ÷ clean"], rows))
    save(json_file, {"parameters": parameters, "seconds": times, "peak_bytes": memory})
    plot(plot_file, over, "A training step", "time ÷ clean")


if __name__ == "__main__":
    typer.run(main)
