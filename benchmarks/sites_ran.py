"""What it costs to know that every site ran, in each forward pass of a Hugging Face model.

    python benchmarks/sites_ran.py [--layers 24] [--runs 41] [--json FILE]

One wrapped model (Qwen2.5-0.5B's shape, random weights, float32, every kind at scale 0, so that no
noise hides the cost) runs with its marks and without them in turn, on one thread, in seconds of the
processor, which other work on the machine does not lengthen. Compiled, the marks are followed
when the graph is made; the table has the number of operators in both graphs. In vLLM nothing runs
in a pass: sites are compared with the family's map when weights are loaded.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from hetero_plugin import NoiseConfig, wrap
from hetero_plugin.hf.layers import ATTRIBUTE
from hetero_plugin.hf.wrap import attachment_of

sys.path.insert(0, str(Path(__file__).parent))
from common import alternate, machine, median, ratios, save, table

KINDS = ["linear", "norm", "activation", "attention"]


def build(layers: int) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=8192,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = Qwen2ForCausalLM(config).eval()
    return wrap(model, NoiseConfig(targets=KINDS, scale=0.0), quiet=True)


def _nothing(*args: object) -> None:
    """In place of the check."""


class Marks:
    """Takes a model's marks away and gives them back."""

    def __init__(self, model: Any) -> None:
        attachment = attachment_of(model)
        assert attachment is not None
        self.context = attachment.context
        self.check: Any = self.context._check
        noises = {id(n): n for m in model.modules() if (n := m.__dict__.get(ATTRIBUTE)) is not None}
        self.of = [(noise, noise.marks) for noise in noises.values()]

    def set(self, there: bool) -> None:
        context: Any = self.context
        context._check = self.check if there else _nothing
        for noise, marks in self.of:
            noise.marks = marks if there else ()


def operators(model: Any, ids: torch.Tensor) -> int:
    """How many operators the compiled forward pass has."""
    found: list[int] = []

    def count(graph: Any, example: Any) -> Any:
        found.append(sum(node.op.startswith("call") for node in graph.graph.nodes))
        return graph.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend=count, fullgraph=True)(ids)
    return sum(found)


def main(
    layers: Annotated[int, typer.Option(help="Decoder layers.")] = 24,
    runs: Annotated[int, typer.Option(min=3, help="Alternating runs.")] = 41,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    model = build(layers)
    marks = Marks(model)
    seconds: dict[str, dict[str, list[float]]] = {}
    rows = []
    for length in (1, 64):
        ids = torch.randint(0, 8192, (1, length))

        def run(there: bool, ids: torch.Tensor = ids) -> Callable[[], object]:
            @torch.no_grad()
            def work() -> float:
                marks.set(there)
                began = time.process_time()
                model(ids)
                return time.process_time() - began

            return work

        print(f"{length} tokens a pass: {2 * runs + 2} passes", file=sys.stderr, flush=True)
        measured = alternate({"without": run(False), "with": run(True)}, runs)
        seconds[str(length)] = measured
        rows.append(
            [
                f"eager, {length} token{'s' * (length > 1)}",
                f"{1e3 * statistics.median(measured['without']):.2f} ms",
                f"{1e3 * statistics.median(measured['with']):.2f} ms",
                median(ratios(measured, "without")["with"]),
            ]
        )
    counted = {}
    for there in (False, True):
        marks.set(there)
        counted[there] = operators(model, torch.randint(0, 8192, (1, 8)))
    equal = "the same" if counted[False] == counted[True] else "DIFFERENT"
    rows.append(["compiled, operators", str(counted[False]), str(counted[True]), equal])
    sites = len(marks.context.places)
    print(f"{layers} layers, {sites} sites, {machine()}\n")
    print(table(["pass", "without", "with", "with ÷ without"], rows))
    save(json_file, {"layers": layers, "seconds": seconds, "operators": list(counted.values())})


if __name__ == "__main__":
    typer.run(main)
