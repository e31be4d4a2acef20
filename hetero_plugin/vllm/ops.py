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


@torch.library.custom_op("hetero_noise_vllm::offset_norm", mutates_args=())
def _offset_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, offset: Tensor, epsilon: float
) -> Tensor:
    if offset.device.type == "cpu" and not bool(offset.any()):
        return torch.empty_like(x)  # the clean result will be taken
    # Rounded where the Hugging Face model rounds: after the residual addition and the division.
    hidden = (x if residual is None else x + residual).float()
    hidden = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + epsilon)
    return (hidden.to(x.dtype).float() * (weight.float() + offset)).to(x.dtype)


@_offset_norm.register_fake
def _(x: Tensor, residual: Tensor | None, weight: Tensor, offset: Tensor, epsilon: float) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("hetero_noise_vllm::choose_offset", mutates_args=())
def _choose_offset(clean: Tensor, shifted: Tensor, offset: Tensor) -> Tensor:
    return _pick(clean, shifted.clone, offset.any())


@_choose_offset.register_fake
def _(clean: Tensor, shifted: Tensor, offset: Tensor) -> Tensor:
    return torch.empty_like(clean)


def offset_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, offset: Tensor, epsilon: float
) -> Tensor:
    """RMSNorm of x (+ residual), [T, N], with float32 weight + offset [N] and one rounding.

    Must be called before the layer's own norm, which may overwrite x and residual.
    """
    return torch.ops.hetero_noise_vllm.offset_norm(x, residual, weight, offset, epsilon)


def choose_offset(clean: Tensor, shifted: Tensor, offset: Tensor) -> Tensor:
    """``shifted`` if the offset is not all zero, else ``clean``: both [T, N], offset [N]."""
    return torch.ops.hetero_noise_vllm.choose_offset(clean, shifted, offset)
