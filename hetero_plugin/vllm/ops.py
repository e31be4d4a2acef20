"""Opaque operators that decide between a clean result and a noisy one.

The clean result is computed by vLLM's own layer, so that at scale 0 the engine is vLLM bit for bit;
the noisy one follows the Hugging Face model step by step. Opaque, so that the compiler can't fuse
the two and change the clean one. The decision reads a tensor: no recompilation, and it is safe in a
captured CUDA graph.

T: rows, N: features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hetero_plugin.aqn import shifted_weight

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def _pick(clean: Tensor, noisy: Callable[[], Tensor], on: Tensor) -> Tensor:
    """``noisy()`` where the one-element bool ``on`` holds, else a copy of ``clean``."""
    if on.device.type == "cpu":
        return noisy() if bool(on) else clean.clone()
    return torch.where(on, noisy(), clean)  # no synchronisation with the host


@torch.library.custom_op("hetero_noise_vllm::choose", mutates_args=())
def _choose(clean: Tensor, parts: list[Tensor], scales: Tensor, live: Tensor) -> Tensor:
    return _pick(clean, lambda: torch.cat(parts, dim=-1), (scales[live] != 0).any())


@_choose.register_fake
def _(clean: Tensor, parts: list[Tensor], scales: Tensor, live: Tensor) -> Tensor:
    return torch.empty_like(clean)


def choose(clean: Tensor, parts: list[Tensor], scales: Tensor, live: Tensor) -> Tensor:
    """The parts side by side if any of the live scales is not 0, else ``clean``.

    Args:
        clean: [T, N].
        parts: [T, N_i], the N_i adding up to N.
        scales: float32 [slots], the scale table.
        live: int64 [n], the entries that matter here.
    """
    return torch.ops.hetero_noise_vllm.choose(clean, parts, scales, live)


@torch.library.custom_op("hetero_noise_vllm::activate", mutates_args=())
def _activate(gate_up: Tensor, activation: str) -> Tensor:
    return ACTIVATIONS[activation](gate_up[..., : gate_up.shape[-1] // 2])


@_activate.register_fake
def _(gate_up: Tensor, activation: str) -> Tensor:
    return gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


@torch.library.custom_op("hetero_noise_vllm::gated_product", mutates_args=())
def _gated_product(
    gate: Tensor, gate_up: Tensor, clean: Tensor, scales: Tensor, live: Tensor
) -> Tensor:
    up = gate_up[..., gate_up.shape[-1] // 2 :]
    return _pick(clean, lambda: gate * up, (scales[live] != 0).any())


@_gated_product.register_fake
def _(gate: Tensor, gate_up: Tensor, clean: Tensor, scales: Tensor, live: Tensor) -> Tensor:
    return torch.empty_like(clean)


def activate(gate_up: Tensor, activation: str) -> Tensor:
    """act(gate) [T, N], rounded to the dtype as in the Hugging Face model, of gate_up [T, 2N]."""
    return torch.ops.hetero_noise_vllm.activate(gate_up, activation)


def gated_product(
    gate: Tensor, gate_up: Tensor, clean: Tensor, scales: Tensor, live: Tensor
) -> Tensor:
    """gate·up if any of the live scales is not 0, else ``clean``: all [T, N], gate_up [T, 2N]."""
    return torch.ops.hetero_noise_vllm.gated_product(gate, gate_up, clean, scales, live)


@torch.library.custom_op("hetero_noise_vllm::weigh", mutates_args=())
def _weigh(
    clean: Tensor, unit: Tensor, weight: Tensor, offset: Tensor, shift: float, in_dtype: bool
) -> Tensor:
    def shifted() -> Tensor:
        whole = shifted_weight(weight, offset, in_dtype)
        return (unit.float() * (whole + shift if shift else whole)).to(clean.dtype)

    return _pick(clean, shifted, offset.any())


@_weigh.register_fake
def _(
    clean: Tensor, unit: Tensor, weight: Tensor, offset: Tensor, shift: float, in_dtype: bool
) -> Tensor:
    return torch.empty_like(clean)


def weigh(
    clean: Tensor, unit: Tensor, weight: Tensor, offset: Tensor, shift: float, in_dtype: bool
) -> Tensor:
    """unit·(weight + offset + shift), rounded once; ``clean`` if the offset is all zero.

    Args:
        clean: [..., N], the norm's own result.
        unit: [..., N], the norm before its weight.
        weight: [N].
        offset: float32 [N].
        shift: what the norm itself adds to its weight (Gemma: 1).
        in_dtype: add the offset to the weight in the weight's dtype rather than in float32.
    """
    return torch.ops.hetero_noise_vllm.weigh(clean, unit, weight, offset, shift, in_dtype)
