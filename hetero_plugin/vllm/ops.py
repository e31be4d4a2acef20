"""Opaque operators that decide between a clean result and a noisy one.

The clean result is computed by vLLM's own layer, so that at scale 0 the engine is vLLM bit for bit;
the noisy one follows the Hugging Face model step by step. Opaque, so that the compiler can't fuse
the two and change the clean one. The decision reads a tensor: no recompilation, and it is safe in a
captured CUDA graph.

T: rows, N: features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hetero_plugin.kernels.fused import ACTIVATIONS, pick
from hetero_plugin.operator import Chain, Product
from hetero_plugin.state import Draw, NoiseState

_NOTHING = torch.empty(0, 4, dtype=torch.int64, device="cpu")
"""Segments of a norm whose output has no error."""


@torch.library.custom_op("hetero_noise_vllm::choose", mutates_args=())
def _choose(clean: Tensor, parts: list[Tensor], scales: Tensor, entries: Tensor) -> Tensor:
    chosen = pick(clean, lambda: torch.cat(parts, dim=-1), (scales[entries] != 0).any())
    return chosen.contiguous()


@_choose.register_fake
def _(clean: Tensor, parts: list[Tensor], scales: Tensor, entries: Tensor) -> Tensor:
    return torch.empty_like(clean, memory_format=torch.contiguous_format)


def choose(clean: Tensor, parts: list[Tensor], draw: Draw, entries: Tensor) -> Tensor:
    """The parts side by side if a scale of the entries is not 0, else ``clean``.

    Args:
        clean: [T, N].
        parts: [T, N_i], the N_i adding up to N.
        draw: has the scale table.
        entries: int64 [n], those of it that matter here (`entries_of`).
    """
    return torch.ops.hetero_noise_vllm.choose(clean, parts, draw.scales, entries)


def entries_of(state: NoiseState, *chains: Chain | Product) -> Tensor:
    """Those of the scale table that the chains read, int64 [n] where the model computes.

    Made once, when noise is attached: a captured graph goes on reading this tensor.
    """
    slots = dict.fromkeys(slot for chain in chains for slot in chain.slots)
    return torch.tensor(list(slots), dtype=torch.int64, device=state.device)


@torch.library.custom_op("hetero_noise_vllm::activate", mutates_args=())
def _activate(gate_up: Tensor, activation: str) -> Tensor:
    return ACTIVATIONS[activation](gate_up[..., : gate_up.shape[-1] // 2]).contiguous()


@_activate.register_fake
def _(gate_up: Tensor, activation: str) -> Tensor:
    return gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


@torch.library.custom_op("hetero_noise_vllm::gated_product", mutates_args=())
def _gated_product(
    gate: Tensor, gate_up: Tensor, clean: Tensor, scales: Tensor, entries: Tensor
) -> Tensor:
    up = gate_up[..., gate_up.shape[-1] // 2 :]
    return pick(clean, lambda: gate * up, (scales[entries] != 0).any()).contiguous()


@_gated_product.register_fake
def _(gate: Tensor, gate_up: Tensor, clean: Tensor, scales: Tensor, entries: Tensor) -> Tensor:
    return torch.empty_like(clean, memory_format=torch.contiguous_format)


def gated(
    chain: Chain, draw: Draw, gate_up: Tensor, clean: Tensor, activation: str, entries: Tensor
) -> Tensor:
    """act(gate) with the errors of ``chain``, rounded as in the Hugging Face model, times up.

    Args:
        chain: of the activation's output.
        draw: of the rows.
        gate_up: [T, 2N].
        clean: [T, N], what is passed on if no scale is on; may be written over.
        activation: key of ACTIVATIONS.
        entries: the chain's (`entries_of`).
    """
    stage = chain.single
    if stage is None:  # several rules, or an error that only the reference knows: step by step
        gate = torch.ops.hetero_noise_vllm.activate(gate_up, activation)
        gate = chain(gate, draw, in_place=True)
        return torch.ops.hetero_noise_vllm.gated_product(gate, gate_up, clean, draw.scales, entries)
    how = stage.segments, stage.error, stage.stochastic, activation
    torch.ops.hetero_noise.gated_(clean, gate_up, *draw, *how)
    return clean


def weighed(
    chain: Chain,
    draw: Draw,
    clean: Tensor,
    dtype: torch.dtype,
    unit: Tensor,
    weight: Tensor,
    offset: Tensor,
    shift: float,
    in_dtype: bool,
) -> Tensor:
    """unit·(weight + offset + shift), rounded once, with the errors of ``chain``.

    At an offset of all zeros it starts from ``clean``.

    Args:
        chain: of the norm's output; may be empty.
        draw: of the rows.
        clean: [..., N], the norm's own result; written over.
        dtype: what the norm's result is rounded to; ``clean`` in float32 is not rounded yet.
        unit: [..., N], the norm before its weight.
        weight: [N].
        offset: float32 [N], AQN's.
        shift: what the norm itself adds to its weight (Gemma: 1).
        in_dtype: add the offset to the weight in the weight's dtype rather than in float32.
    """
    stage = chain.single
    clean = clean.contiguous()
    how = (_NOTHING, "", False)
    if stage is not None:
        how = (stage.segments, stage.error, stage.stochastic)
    rest = unit, weight, offset, shift, in_dtype, *draw, *how
    rounded = clean.dtype == dtype
    if rounded:
        torch.ops.hetero_noise.weighed_(clean, *rest)
    else:
        torch.ops.hetero_noise.weighed_unrounded_(clean, dtype, *rest)
    if stage is None and chain:
        if rounded:
            return chain(clean, draw, in_place=True)
        return chain.before_rounding(clean, draw, dtype)
    return clean
