"""A Hugging Face model's decode step and prefill, noisy beside clean; on CUDA as captured graphs.

    python benchmarks/decode.py [--layers 28] [--batch 1] [--json FILE] [--plot FILE.svg]

The shape is that of Qwen2.5-1.5B with random weights, in bfloat16; on a machine without CUDA four
layers of it, eager. A decode step is one token of each sequence against a static cache of 520
places (attention reads them all, whatever they hold). A captured graph reads scales, clock and
tokens from device memory, so one graph serves every setting; clean is a graph of a model that was
never wrapped.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from hetero_plugin import wrap

sys.path.insert(0, str(Path(__file__).parent))
from common import alternate, machine, median, plot, ratios, save, table

CONTEXT = 512
LINEAR: dict[str, Any] = {"targets": ["linear"], "exclude": ["lm_head"], "scale": 0.05}
EVERYTHING = ["linear", "norm", "activation", "attention"]
WAYS: dict[str, dict[str, Any] | None] = {
    "clean": None,
    "ours, scale 0": {**LINEAR, "scale": 0.0},
    "ours, linear": LINEAR,
    "ours, every kind": {"targets": EVERYTHING, "scale": 0.05},
}


def build(layers: int, device: str) -> nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=32_768,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    )
    with torch.device(device):
        return Qwen2ForCausalLM(config).to(torch.bfloat16).eval()


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """``work`` as a CUDA graph; itself where there is no CUDA."""
    if not torch.cuda.is_available():
        return work
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles and allocates before the capture
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()

    def replay() -> Callable[[], object]:
        graph.replay()
        return work  # a graph reads the addresses of tensors, and does not keep them: this does

    return replay


def work_of(model: Any, batch: int) -> dict[str, Callable[[], object]]:
    """A decode step and a prefill of the model."""
    from transformers import StaticCache

    device = next(model.parameters()).device
    prompt = torch.randint(0, 32_768, (batch, CONTEXT), device=device)
    caches = [StaticCache(model.config, max_cache_len=CONTEXT + 8) for _ in range(2)]
    places = torch.arange(CONTEXT, device=device)

    @torch.no_grad()
    def step(ids: Tensor, at: Tensor, cache: Any) -> Tensor:
        # A static cache counts how far it is filled; each run here writes to the same places.
        cache.reset()
        logits: Tensor = model(
            ids,
            position_ids=at[None].expand(ids.shape[0], -1),
            past_key_values=cache,
            logits_to_keep=1,
        ).logits
        return logits

    step(prompt, places, caches[0])
    last, end = prompt[:, -1:].clone(), torch.tensor([CONTEXT], device=device)
    return {
        "decode": captured(lambda: step(last, end, caches[0])),
        "prefill": captured(lambda: step(prompt, places, caches[1])),
    }


def main(
    layers: Annotated[int, typer.Option(help="Layers; 0: 28 with CUDA, else 4.")] = 0,
    batch: Annotated[int, typer.Option(help="Sequences.")] = 1,
    runs: Annotated[int, typer.Option(min=3, help="Alternating runs.")] = 15,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw decode's ratios.")] = None,
) -> None:
    """Print the table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = layers or (28 if device == "cuda" else 4)
    work: dict[str, dict[str, Callable[[], object]]] = {}
    for name, rule in WAYS.items():
        print(f"building: {name} ...", file=sys.stderr)
        model = build(layers, device)
        if rule is not None:
            wrap(model, {"rules": [rule]}, quiet=True)
        work[name] = work_of(model, batch)
    measured = {
        what: alternate({name: each[what] for name, each in work.items()}, runs)
        for what in ("decode", "prefill")
    }
    over = {what: ratios(times, "clean") for what, times in measured.items()}
    how = "captured graphs" if device == "cuda" else "eager"
    print(f"{layers} x 1536, batch {batch}, {CONTEXT} tokens before, {how}, {machine()}\n")
    rows = [
        [
            name,
            f"{1e3 * statistics.median(measured['decode'][name]):.2f}",
            median(over["decode"][name]),
            f"{1e3 * statistics.median(measured['prefill'][name]):.1f}",
            median(over["prefill"][name]),
        ]
        for name in WAYS
    ]
    head = ["way", "decode, ms", "time ÷ clean", "prefill, ms", "time ÷ clean"]
    print(table(head, rows))
    save(json_file, {"layers": layers, "batch": batch, "seconds": measured})
    plot(plot_file, over["decode"], "A decode step", "time ÷ clean")


if __name__ == "__main__":
    typer.run(main)
