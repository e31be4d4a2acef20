"""A linear layer whose gradient of the input is multiplied from operands in a number format.

T: rows (tokens), K: input features, N: output features. The products of a layer are y = x·Wᵀ,
dx = g·W (summed over N) and dW = gᵀ·x (summed over tokens). Hardware that trains in a format
rounds the operands of each along the axis that it sums over: x and W along K, and for dx both g
and W along N, from the weight itself and not from what the forward pass multiplied. Blocks of
dW's operands would run along the tokens, so that a token's error depended on its batch: dW is
computed without.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hetero_plugin.operator.chain import Chain
from hetero_plugin.state import Draw

__all__ = ["dgrad_linear", "transposed"]


def transposed(weight: Tensor, chain: Chain, draw: Draw) -> Tensor:
    """Wᵀ [K, N] with the error of ``chain``, whose rows are the input features."""
    rows = torch.arange(weight.shape[1], device=weight.device)
    return chain(weight.detach().T.contiguous(), draw.of(rows))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        clean: Tensor,
        chains: tuple[Chain | None, Chain | None],
        keys: Tensor,
        clock: Tensor,
        scales: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, clean, keys, clock, scales)
        ctx.chains = chains
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, clean, *drawn = ctx.saved_tensors
        draw = Draw(*drawn)
        of_grad, of_weight = ctx.chains
        g_TN = grads[0].reshape(-1, weight.shape[0])
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            left = g_TN if of_grad is None else of_grad(g_TN, draw)
            right = weight
            if of_weight is not None:
                right = transposed(clean, of_weight, draw).T.to(g_TN.dtype)
            dx = (left @ right).reshape(x.shape)
        if ctx.needs_input_grad[1]:
            dw = g_TN.T @ x.reshape(-1, x.shape[-1])
        if ctx.needs_input_grad[2]:
            db = g_TN.sum(dim=0)
        return dx, dw, db, None, None, None, None, None


def dgrad_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    clean: Tensor,
    chains: tuple[Chain | None, Chain | None],
    draw: Draw,
) -> Tensor:
    """`F.linear` with error on the two operands of the gradient of its input.

    Args:
        x: [..., K], what the forward pass multiplies.
        weight: [N, K], what the forward pass multiplies.
        bias: [N] or None.
        clean: [N, K], the weight itself; no gradient goes to it here.
        chains: of the streams ``grad_output`` (for g) and ``weight_transposed`` (for Wᵀ); None:
            g as it comes, and the W that the forward pass multiplies.
        draw: of the rows of x; kept for the backward pass, and not to be overwritten before it.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return _Linear.apply(x, weight, bias, clean.detach(), chains, *draw)
