"""The clipped straight-through estimator: where a format saturates, no gradient passes.

Q rounds an input or a weight x to a number format, which has the largest number M; c is the scale
of an element's block. Straight-through, the gradient of x + s·(Q(x) − x) is that of x. Clipped,

    ∂/∂x = 1 where |x| ≤ c·M, else 1 − s,

as the derivative of what Q rounds, clamp(x / c, −M, M)·c with c held fixed: no step of training
pushes a number further out that the format can't hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hetero_plugin.state import Draw

if TYPE_CHECKING:
    from hetero_plugin.operator.chain import Chain, Stage

__all__ = ["applied", "clipped_gradient", "with_clipped_gradient"]


def applied(stage: Stage, x: Tensor, draw: Draw) -> Tensor:
    """x [..., N] with the error of one rule, a new tensor."""
    ops = torch.ops.hetero_noise
    op = ops.perturb if stage.native else ops.perturb_reference
    y: Tensor = op(x, *draw, stage.segments, stage.error, stage.stochastic)
    return y


def clipped_gradient(grad: Tensor, x: Tensor, chain: Chain, draw: Draw) -> Tensor:
    """The gradient of a chain's input.

    Args:
        grad: [..., N], of what the chain gave.
        x: [..., N], what it was given.
        chain: whose stages are applied to x once more, but for the last.
        draw: as the chain was called with.
    """
    before = [x]
    for stage in chain.stages[:-1]:
        before.append(applied(stage, before[-1], draw))
    for stage, given in zip(reversed(chain.stages), reversed(before), strict=True):
        if stage.clipped:
            how = draw.scales, stage.segments, stage.error
            grad = torch.ops.hetero_noise.clip_gradient(grad, given, *how)
    return grad


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, chain: Chain, keys: Tensor, clock: Tensor, scales: Tensor
    ) -> Tensor:
        ctx.chain = chain
        ctx.save_for_backward(x, keys, clock, scales)
        y = x
        for stage in chain.stages:
            y = applied(stage, y, Draw(keys, clock, scales))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *drawn = ctx.saved_tensors
        return clipped_gradient(grads[0], x, ctx.chain, Draw(*drawn)), None, None, None, None


def with_clipped_gradient(x: Tensor, chain: Chain, draw: Draw) -> Tensor:
    """A chain's result, and the gradient of its input that its rules ask for.

    Args:
        x: [..., N]; kept for the backward pass.
        chain: with `Chain.clips`.
        draw: kept for the backward pass, and not to be overwritten before it.
    """
    y: Tensor = _Clipped.apply(x, chain, *draw)
    return y
