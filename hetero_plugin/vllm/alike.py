"""Sites of one fused layer whose inputs have one and the same error: one GEMM serves them all.

q, k and v read one tensor, and so do gate and up. Random error is each site's own, and each site's
part of the weight then multiplies an input of its own. A number format gives every site the same
numbers, as long as their scales are the same: the fused GEMM then reads them once. Where scales
differ, as when attestation switches one site on alone, the parts are multiplied one by one. Which
of the two is decided where it runs, by the scale table: nothing is compiled anew.

T: rows, K: input features, N: output features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hetero_plugin.kernels.fused import pick
from hetero_plugin.operator import Chain
from hetero_plugin.state import Draw, NoiseState

__all__ = ["OneInput"]


def _same(scales: Tensor, entries: Tensor) -> Tensor:
    """One bool: whether all parts have the same scales; never where one is NaN (no phase set)."""
    found = scales[entries]
    return (found == found[:1]).all()


def _through(x: Tensor, draw: Draw, segments: list[Tensor], how: str) -> Tensor:
    """x with the errors of one part, a stage after the other."""
    for one, words in zip(segments, how.split("\n"), strict=True):
        native, _, error = words.partition(" ")
        name = "perturb" if native == "native" else "perturb_reference"
        x = getattr(torch.ops.hetero_noise, name)(x, *draw, one, error, False)
    return x


@torch.library.custom_op("hetero_noise_vllm::one_input", mutates_args=())
def _one_input(
    x: Tensor,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    entries: Tensor,
    segments: list[Tensor],
    how: str,
) -> Tensor:
    draw = Draw(row_keys, clock, scales)
    first = segments[: entries.shape[1]]
    return pick(x, lambda: _through(x, draw, first, how), _same(scales, entries)).contiguous()


@_one_input.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("hetero_noise_vllm::apart_", mutates_args=("y",))
def _apart_(
    y: Tensor,
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    entries: Tensor,
    segments: list[Tensor],
    how: str,
) -> None:
    same = _same(scales, entries)
    if same.device.type == "cpu" and bool(same):
        return
    draw, stages, parts = Draw(row_keys, clock, scales), entries.shape[1], []
    for index, weight in enumerate(weights):
        own = _through(x, draw, segments[index * stages : (index + 1) * stages], how)
        parts.append(F.linear(own, weight, biases[index] if biases else None))
    y.copy_(torch.where(same, y, torch.cat(parts, dim=-1)))


@_apart_.register_fake
def _(*_: object) -> None:
    return None


@dataclass
class OneInput:
    """The error that all sites of a fused layer have on their inputs."""

    entries: Tensor
    """int64 [sites, stages], of the scale table, where the model computes."""
    segments: list[Tensor]
    """Of every site's stages, one after the other, in host memory."""
    how: str
    """A line a stage: whether a native kernel has it, and its error."""

    @classmethod
    def of(cls, state: NoiseState, inputs: Sequence[Chain]) -> OneInput | None:
        """Of the sites' chains; None where they are not all one and the same fixed error."""
        lines = [
            [f"{'native' if one.native else 'reference'} {one.error}" for one in chain.stages]
            for chain in inputs
        ]
        if not lines[0] or any(line != lines[0] for line in lines):
            return None
        if not all(chain.fixed and len(chain.slots) == len(chain.stages) for chain in inputs):
            return None
        slots = [list(chain.slots) for chain in inputs]
        return cls(
            torch.tensor(slots, dtype=torch.int64, device=state.device),
            [one.segments for chain in inputs for one in chain.stages],
            "\n".join(lines[0]),
        )

    def before(self, x: Tensor, draw: Draw) -> Tensor:
        """What the fused GEMM reads, [T, K]: x with the error, or x where the scales differ."""
        where = self.entries, self.segments, self.how
        made: Tensor = torch.ops.hetero_noise_vllm.one_input(x, *draw, *where)
        return made

    def after(
        self, y: Tensor, x: Tensor, weights: list[Tensor], biases: list[Tensor], draw: Draw
    ) -> None:
        """Writes each part's own product into the fused GEMM's, where the scales differ.

        Args:
            y: [T, N], the fused GEMM's; the caller's own.
            x: [T, K], without error.
            weights: [N_i, K] of each site, the N_i adding up to N.
            biases: [N_i] of each, in x's dtype; empty: there are none.
            draw: of the rows.
        """
        where = self.entries, self.segments, self.how
        torch.ops.hetero_noise_vllm.apart_(y, x, weights, biases, *draw, *where)
