"""What noise adds to a vLLM engine's start: compilation with an empty cache, and with a full one.

    python benchmarks/startup.py [--layers 6] [--runs 5] [--json FILE] [--plot FILE.svg]

Each start is a fresh process; with an empty cache it traces and compiles, with a full one it loads
what the first left. Seconds are from vLLM's first import to the first token. About a minute a run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).parent))
from common import alternate, machine, median, plot, ratios, save, table
from vllm_throughput import make_model

EVERYTHING = ["linear", "norm", "activation", "attention"]
WAYS: dict[str, Any] = {
    "clean": None,
    "ours, linear": {"targets": ["linear"], "exclude": ["lm_head"], "scale": 0.05},
    "ours, every kind": {"targets": EVERYTHING, "scale": 0.05},
}


def start(settings: dict[str, Any]) -> None:
    """The child: starts an engine, has it say one token, prints how long that took."""
    import time

    began = time.perf_counter()
    from vllm import LLM, SamplingParams

    rule = settings["rule"]
    noisy: dict[str, Any] = {
        "quantization": "hetero_noise",
        "additional_config": {"hetero_noise": {"rules": [rule]}},
    }
    llm = LLM(
        settings["model"],
        dtype=settings["dtype"],
        skip_tokenizer_init=True,
        max_model_len=256,
        max_num_batched_tokens=256,
        kv_cache_memory_bytes=64 << 20,
        **(noisy if rule else {}),
    )
    parameters = SamplingParams(max_tokens=1, detokenize=False)
    llm.generate([{"prompt_token_ids": [3, 4, 5]}], parameters, use_tqdm=False)
    seconds = time.perf_counter() - began
    if rule:
        from hetero_plugin.vllm import client

        assert client.status(llm)["active"] > 0, "this engine must be noisy to count"
    print(json.dumps(seconds))


def run(settings: dict[str, Any], cache: Path) -> float:
    environ = dict(os.environ, VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CACHE_ROOT=str(cache))
    environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "inductor")
    command = [sys.executable, __file__, "--child", json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    if done.returncode:
        sys.exit(f"an engine did not start:\n{done.stderr[-3000:]}")
    return float(done.stdout.splitlines()[-1])


def main(
    layers: Annotated[int, typer.Option(help="Decoder layers.")] = 6,
    hidden: Annotated[int, typer.Option(help="Hidden size.")] = 896,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    runs: Annotated[int, typer.Option(min=1, help="Alternating runs.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw the ratios.")] = None,
    child: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print the table."""
    if child is not None:
        start(json.loads(child))
        return
    measured: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        make_model(path / "model", layers, hidden, dtype)
        turns = dict.fromkeys(WAYS, 0)

        def once(name: str, cold: bool) -> float:
            turns[name] += 1
            print(f"{'empty' if cold else 'full'} cache: {name} ...", file=sys.stderr)
            settings = {"model": str(path / "model"), "dtype": dtype, "rule": WAYS[name]}
            cache = path / f"{name}-{turns[name] if cold else 'full'}".replace(" ", "")
            return run(settings, cache)

        for cold in (True, False):
            ways = {name: partial(once, name, cold) for name in WAYS}
            measured["empty" if cold else "full"] = alternate(ways, runs)
    over = {cache: ratios(times, "clean") for cache, times in measured.items()}
    print(f"{layers} x {hidden}, {dtype}, {machine()}\n")
    rows = [
        [name]
        + [
            cell
            for cache in measured
            for cell in (median(measured[cache][name]), median(over[cache][name]))
        ]
        for name in WAYS
    ]
    head = ["way", "empty cache, s", "÷ clean", "full cache, s", "÷ clean"]
    print(table(head, rows))
    save(json_file, {"seconds": measured})
    plot(plot_file, over["empty"], "A start with an empty cache", "time ÷ clean")


if __name__ == "__main__":
    typer.run(main)
