"""What an operator is to a recording.

T rows, K inputs and N outputs of a row, C columns of the outputs that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hetero_plugin import random

__all__ = ["Inputs", "Operator", "chosen_columns"]

Inputs = Mapping[str, Tensor]
"""Name -> tensor, T rows each: `x`; `residual` of a norm that adds it first; `up` of an activation
that is multiplied by it; `q`, `k`, `v` of attention, after RoPE."""


@dataclass(frozen=True)
class Operator:
    """One operator of one engine, by itself.

    Args:
        name: canonical name of its site.
        kind: linear, lm_head, norm, activation, attention.
        layer: index of the decoder layer; None outside of them.
        k: inputs of a row.
        n: outputs of a row.
        columns: int64 [C], ascending: which outputs are kept.
        run: the engine's own code: inputs -> [T, N].
        reference: inputs -> float64 [T, C] on the values as they are stored; None: not known here.
        weight: of linear kinds [N, K], of a norm [K].
        bias: of linear kinds, [N].
        extra: numbers of it, such as ``eps``.
    """

    name: str
    kind: str
    layer: int | None
    k: int
    n: int
    columns: Tensor
    run: Callable[[Inputs], Tensor]
    reference: Callable[[Inputs], Tensor] | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    extra: Mapping[str, float] = field(default_factory=dict)


def chosen_columns(name: str, n: int, most: int) -> Tensor:
    """Which columns of a site are kept: the same on every machine, by the site's name alone.

    Args:
        name: of the site.
        n: its outputs.
        most: columns that are kept at most; where there are no more, all are.

    Returns:
        int64 [C], ascending.
    """
    if n <= most:
        return torch.arange(n)
    key = random.site_key(name, "recording")
    order = random.mix64_tensor(torch.arange(n) ^ key).argsort(stable=True)
    return order[:most].sort().values
