"""How long a setting of a running vLLM engine takes, idle and busy, and that it compiles nothing.

A random model of as many layers as a real one, all operators noisy, in a compiled AsyncLLM. On a
busy engine a call waits for the step in progress, as a change within a forward pass would be two
noises in one token: `status`, which changes nothing, shows that wait, and what a setting takes by
itself is the difference. Requests that run are preempted by each change and computed anew: for some
steps the engine then mixes prefill and decoding. So it is measured twice: with time between the
calls for that to be over, and with calls so close together that it never is. Prints a table.

    python benchmarks/vllm_control.py [--layers 28] [--requests 32] [--calls 20] [--json FILE]
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from common import machine, save, table

SPEC = {
    "preset": "all-ops",
    "aqn": {"schedule": "constant", "sigma_start": 0.01, "total_steps": 1000},
}
Call = Callable[[int], Awaitable[Any]]
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # the table has the other


def make(path: Path, layers: int, hidden: int) -> None:
    """Saves a random Qwen2."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=1,
        intermediate_size=2 * hidden,
        vocab_size=512,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(path)


async def generate(engine: Any, number: int, stop: asyncio.Event) -> int:
    """Asks one request after another until told to stop; returns how many tokens came."""
    from vllm import SamplingParams

    tokens, turn = 0, 0
    parameters = SamplingParams(temperature=1.0, max_tokens=128, ignore_eos=True, detokenize=False)
    prompt: Any = {"prompt_token_ids": [3 + (number * 7 + j * j) % 500 for j in range(64)]}
    while not stop.is_set():
        turn += 1
        name, seen = f"{number}-{turn}", 0
        async for answer in engine.generate(prompt, parameters, name):
            seen = len(answer.outputs[0].token_ids)
            if stop.is_set():
                await engine.abort(name)
                break
        tokens += seen
    return tokens


async def measure(calls: dict[str, Call], times: int, apart: float) -> dict[str, list[float]]:
    """Milliseconds of each call, in an order and at distances that no step keeps time with.

    Args:
        apart: seconds between two calls, about.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    chance = random.Random(0)
    for i in range(times):
        for name in chance.sample(list(calls), len(calls)):
            await asyncio.sleep(apart * chance.uniform(0.75, 1.25))
            began = time.perf_counter()
            await calls[name](i)
            found[name].append(1e3 * (time.perf_counter() - began))
    return found


async def run(model: Path, requests: int, times: int, apart: float) -> dict[str, Any]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from hetero_plugin.vllm.client import aio

    arguments = AsyncEngineArgs(
        model=str(model),
        max_model_len=1024,
        max_num_seqs=requests,
        max_num_batched_tokens=2048,
        kv_cache_memory_bytes=1 << 30,
        skip_tokenizer_init=True,
        quantization="hetero_noise",
        additional_config={"hetero_noise": SPEC},
    )
    engine = AsyncLLM.from_engine_args(arguments)
    try:
        sites = await aio.sites(engine)
        one = sites[len(sites) // 2]["name"]
        calls: dict[str, Call] = {
            "status (changes nothing)": lambda i: aio.status(engine),
            "scale of everything": lambda i: aio.set_noise(engine, scale=0.01 + i / 1e4),
            "scale of one site": lambda i: aio.set_noise(engine, scale=i / 1e4, site=one),
            "off or on": lambda i: aio.set_noise(engine, enabled=bool(i % 2)),
            "step, with AQN": lambda i: aio.step(engine, i),
        }
        for call in calls.values():  # what is imported or allocated at the first call
            await call(1)
        before = (await aio.status(engine))["compiled"]
        idle = await measure(calls, times, 0.05)
        stop = asyncio.Event()
        running = [asyncio.create_task(generate(engine, i, stop)) for i in range(requests)]
        await asyncio.sleep(3)
        began = time.perf_counter()
        busy = await measure(calls, times, apart)
        crowded = await measure(calls, times, 0.2)
        seconds = time.perf_counter() - began
        stop.set()
        tokens = sum(await asyncio.gather(*running))
        after = (await aio.status(engine))["compiled"]
        return {
            "sites": len(sites),
            "idle": idle,
            "busy": busy,
            "crowded": crowded,
            "seconds": seconds,
            "tokens": tokens,
            "compiled": {"before": before, "after": after},
        }
    finally:
        engine.shutdown()


def quantile(values: list[float], share: float) -> float:
    """A value that this share is not above."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def main(
    layers: Annotated[int, typer.Option(help="Layers of the model.")] = 28,
    hidden: Annotated[int, typer.Option(help="Its width.")] = 128,
    requests: Annotated[int, typer.Option(help="Requests that run at once.")] = 32,
    calls: Annotated[int, typer.Option(help="Calls of each sort, in each state.")] = 20,
    apart: Annotated[float, typer.Option(help="Seconds from one call to the next, busy.")] = 2.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "model", layers, hidden)
        found = asyncio.run(run(Path(folder) / "model", requests, calls, apart))
    rows = []
    for name in found["idle"]:
        cells = [name]
        for state in ("idle", "busy", "crowded"):
            times = found[state][name]
            cells.append(f"{statistics.median(times):.1f}")
            cells += [f"{quantile(times, 0.95):.1f}", f"{max(times):.1f}"]
        rows.append(cells)
    header = ["call, ms"]
    for state in ("idle", f"busy, each {apart:g} s", "busy, each 0.2 s"):
        header += [f"{state}: median", "95 %", "most"]
    same = found["compiled"]["before"] == found["compiled"]["after"]
    print(
        f"\n{found['sites']} sites, {layers} layers x {hidden}, {requests} requests at once, "
        f"{found['tokens'] / found['seconds']:.0f} tokens/s while settings change, {calls} calls "
        f"of each sort; {machine()}\n"
    )
    print(table(header, rows))
    print(f"\ncompiled by all these calls: {'nothing' if same else found['compiled']}")
    save(json_file, found)


if __name__ == "__main__":
    typer.run(main)
