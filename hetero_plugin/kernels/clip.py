"""The operator of the clipped straight-through estimator: a gradient where nothing saturated.

Tensor operations on any device; opaque to the compiler, as is what it is the gradient of.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hetero_plugin.errors import error_model

__all__ = ["clip_gradient", "register"]


def clip_gradient(grad: Tensor, x: Tensor, scales: Tensor, segments: Tensor, error: str) -> Tensor:
    """``grad``, times 1 - s where x lies beyond what a format has at its block's scale.

    Args:
        grad: [..., N], of x + s (Q(x) - x).
        x: [..., N], bfloat16, float16 or float32, what the format rounded.
        scales: float32, the scale table.
        segments: as for `hetero_plugin.operator.perturb`; its slots say where s is.
        error: the word of a number format.

    Returns:
        A new contiguous tensor like grad; a scale of 0 copies it bit for bit.
    """
    columns = x.shape[-1]
    x_TN, g_TN = x.reshape(-1, columns), grad.reshape(-1, columns)
    out_TN = g_TN.clone(memory_format=torch.contiguous_format)
    beyond = error_model(error).beyond
    if beyond is None:
        raise ValueError(f"{error!r} is no number format, and has no range to be clipped to")
    start = 0
    for n, _, _, slot in segments.tolist() if len(x_TN) else []:
        part = slice(start, start + n)
        scale = scales[slot]
        g = g_TN[:, part]
        rest = torch.where(scale == 1, 0.0, (1.0 - scale) * g.float()).to(g.dtype)
        clipped = torch.where(beyond(x_TN[:, part].float()), rest, g)
        out_TN[:, part] = torch.where(scale == 0, g, clipped)
        start += n
    return out_TN.reshape(grad.shape)


def _like_grad(grad: Tensor, *_: object) -> Tensor:
    return torch.empty_like(grad, memory_format=torch.contiguous_format)


def register(library: torch.library.Library) -> None:
    """Defines the operator."""
    library.define(
        "clip_gradient(Tensor grad, Tensor x, Tensor scales, Tensor segments, str error) -> Tensor"
    )
    library.impl("clip_gradient", clip_gradient, "CompositeExplicitAutograd")
    torch.library.register_fake("hetero_noise::clip_gradient", _like_grad, lib=library)
