"""What the noise should cost on a GPU that is not here: bytes and instructions against the model's.

    python benchmarks/floor.py [--instructions 26] [--json FILE]

Element counts come from the sites of each model, instructions an element from `benchmarks/sass.py`.
A card has a memory bandwidth (that of a copy) and an issue rate (warp schedulers, clock, 32 lanes).
The operator in place takes the larger of two times: 4 bytes an element (bfloat16, read and written)
over the one, its instructions over the other. Prefill: beside the GEMMs' time, two operations a
weight and token at what large GEMMs reach. Decode: beside reading every weight once; the operator's
kernels hang on one another, so each takes at least the step to the next kernel of a graph.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from hetero_plugin.config import NoiseConfig
from hetero_plugin.sites import Site, select, sites_from_config

sys.path.insert(0, str(Path(__file__).parent))
from common import save, table


@dataclass(frozen=True)
class Card:
    """A GPU, as its maker describes it, and what large copies and GEMMs reach of that."""

    name: str
    copy: float
    """Bytes a second, read and written."""
    gemm: float
    """bfloat16 operations a second."""
    schedulers: int
    clock: float
    """Hz, boost."""
    kernel: float = 2e-6
    """Seconds from one small kernel of a graph to the next that waits for it."""
    issue: float = 0.8
    """Share of the issue slots that a kernel of mixed instructions fills."""

    def element(self, instructions: float, bytes_moved: float = 4.0) -> tuple[float, float]:
        """Seconds an element: of memory alone, and of the slower of memory and issue."""
        memory = bytes_moved / self.copy
        return memory, max(memory, instructions / (self.schedulers * 32 * self.clock * self.issue))


CARDS = (
    Card("H100 SXM", 3.0e12, 550e12, 132 * 4, 1.755e9),
    Card("A100 80 GB", 1.75e12, 220e12, 108 * 4, 1.41e9),
)
SHAPES: dict[str, dict[str, int]] = {
    "1.5B": {"hidden": 1536, "inner": 8960, "layers": 28, "heads": 12, "kv": 2, "vocab": 151_936},
    "7B": {"hidden": 3584, "inner": 18_944, "layers": 28, "heads": 28, "kv": 4, "vocab": 152_064},
    "32B": {"hidden": 5120, "inner": 27_648, "layers": 64, "heads": 40, "kv": 8, "vocab": 152_064},
}
"""Qwen2.5, by its config.json."""


def sites_of(shape: dict[str, int]) -> tuple[Site, ...]:
    return sites_from_config(
        {
            "model_type": "qwen2",
            "hidden_size": shape["hidden"],
            "intermediate_size": shape["inner"],
            "num_hidden_layers": shape["layers"],
            "num_attention_heads": shape["heads"],
            "num_key_value_heads": shape["kv"],
            "vocab_size": shape["vocab"],
        }
    )


def weights_of(sites: tuple[Site, ...]) -> tuple[int, int]:
    """Numbers of the decoder's matrices, and of the head's."""
    sizes = {"linear": 0, "lm_head": 0}
    for site in sites:
        if site.kind in sizes:
            assert site.in_features is not None
            sizes[site.kind] += site.features * site.in_features
    return sizes["linear"], sizes["lm_head"]


def kernels_of(chosen: tuple[Site, ...]) -> int:
    """Operator calls of a pass in vLLM, where q, k, v and gate, up are one tensor each."""
    fused = {"k_proj": 0, "v_proj": 0, "up_proj": 0}
    return sum(fused.get(site.name.rpartition(".")[2], 1) for site in chosen)


def main(
    instructions: Annotated[float, typer.Option(min=1, help="An element, from sass.py.")] = 26.0,
    sequences: Annotated[int, typer.Option(min=1, help="Of a decoding batch.")] = 64,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
) -> None:
    """Print the tables."""
    records: list[dict[str, Any]] = []
    for card in CARDS:
        memory, expected = card.element(instructions)
        print(
            f"\n{card.name}: {1e12 * memory:.2f} ps an element of memory, {1e12 * expected:.2f} ps"
        )
        print(f"at {instructions:g} instructions; copy ÷ kernel {memory / expected:.2f}\n")
        rows = []
        for name, shape in SHAPES.items():
            sites = sites_of(shape)
            body, head = weights_of(sites)
            for preset in ("qerl-fp4", "all-ops"):
                picked = {one.site for one in select(NoiseConfig.parse({"preset": preset}), sites)}
                chosen = tuple(s for s in sites if s in picked and s.kind != "lm_head")
                elements = sum(site.features for site in chosen)
                prefill = 2 * body / card.gemm
                decode = 2 * (body + head) / card.copy
                launches = kernels_of(chosen) * card.kernel
                work = [elements * sequences * one for one in (memory, expected)]
                rows.append(
                    [
                        name,
                        preset,
                        f"{elements:,}",
                        f"{1e6 * prefill:.1f} µs",
                        f"+{elements * memory / prefill:.0%}",
                        f"+{elements * expected / prefill:.0%}",
                        f"{1e3 * decode:.2f} ms",
                        f"{kernels_of(chosen)}",
                        f"+{max(launches, work[0]) / decode:.0%}",
                        f"+{max(launches, work[1]) / decode:.0%}",
                    ]
                )
                records.append(
                    {"card": asdict(card), "model": name, "preset": preset, "row": rows[-1]}
                )
        head_row = "model, sites, elements a token, prefill a token, floor, expected, decode step"
        print(table([*head_row.split(", "), "kernels", "floor", "expected"], rows))
    save(json_file, {"instructions": instructions, "sequences": sequences, "rows": records})


if __name__ == "__main__":
    typer.run(main)
