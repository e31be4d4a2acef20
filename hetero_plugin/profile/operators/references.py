"""Operators in float64: what their error is measured against.

Inputs and weights are the stored values (bfloat16 numbers are float64 numbers), and nothing is
rounded in between. T rows, K inputs, C chosen columns, H heads of D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hetero_plugin.profile.operators.base import Inputs

__all__ = ["activation", "attention", "linear", "norm"]


def linear(inputs: Inputs, weight: Tensor, bias: Tensor | None, columns: Tensor) -> Tensor:
    """x·Wᵀ + b of chosen columns, float64 [T, C].

    Args:
        inputs: ``x`` [T, K].
        weight: [N, K].
        bias: [N].
        columns: int64 [C].
    """
    x = inputs["x"].double()
    at = columns.to(weight.device)
    y = x @ weight[at].double().T
    return y if bias is None else y + bias[at].double()


def norm(
    inputs: Inputs, weight: Tensor, eps: float, heads: int, plus_one: bool, columns: Tensor
) -> Tensor:
    """RMSNorm of each row, or of each head of a row; float64 [T, C].

    Args:
        inputs: ``x`` [T, H · D], and ``residual`` of that shape where it is added first.
        weight: [D].
        eps: added to the mean of squares.
        heads: H.
        plus_one: the factor is 1 + weight (Gemma).
        columns: int64 [C], of H · D.
    """
    x = inputs["x"].double()
    if "residual" in inputs:
        x = x + inputs["residual"].double()
    split = x.reshape(len(x), heads, -1)
    scaled = split * torch.rsqrt(split.pow(2).mean(-1, keepdim=True) + eps)
    factor = weight.double() + 1 if plus_one else weight.double()
    return (scaled * factor).reshape(len(x), -1)[:, columns.to(x.device)]


def activation(inputs: Inputs, function: Callable[[Tensor], Tensor], columns: Tensor) -> Tensor:
    """A function of each element, times ``up`` where that is given; float64 [T, C].

    Args:
        inputs: ``x`` and maybe ``up``, [T, K].
        function: of float64 tensors.
        columns: int64 [C].
    """
    at = columns.to(inputs["x"].device)
    y = function(inputs["x"][:, at].double())
    return y * inputs["up"][:, at].double() if "up" in inputs else y


def attention(
    inputs: Inputs, sequences: Sequence[int], head: int, scaling: float, columns: Tensor
) -> Tensor:
    """Causal softmax(q·kᵀ · scaling)·v of several sequences, one below the other; float64 [T, C].

    Args:
        inputs: ``q`` [T, Hq · D], ``k`` and ``v`` [T, Hkv · D]; Hq is a multiple of Hkv, and
            neighbouring heads of q share one of k and v.
        sequences: rows of each; a row sees those of its own up to itself.
        head: D.
        scaling: of the scores.
        columns: int64 [C], of Hq · D.
    """
    found = []
    start = 0
    for length in sequences:
        q, k, v = (
            inputs[name][start : start + length].double().reshape(length, -1, head).transpose(0, 1)
            for name in "qkv"
        )
        groups = len(q) // len(k)
        k, v = k.repeat_interleave(groups, dim=0), v.repeat_interleave(groups, dim=0)
        later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        scores = (q @ k.transpose(1, 2) * scaling).masked_fill(later, -torch.inf)
        mixed = torch.softmax(scores, dim=-1) @ v
        found.append(mixed.transpose(0, 1).reshape(length, -1))
        start += length
    y = torch.cat(found)
    return y[:, columns.to(y.device)]
