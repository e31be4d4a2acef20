"""The rows of a layer's experts: tokens at experts, sorted by expert for a grouped GEMM.

T tokens, K experts of a token, S = T · K rows, E experts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hetero_plugin import random

__all__ = ["Grouped", "grouped"]


class Grouped(NamedTuple):
    """Rows in the order of their experts, those of expert 0 first."""

    order: Tensor
    """int64 [S]: which of the T · K pairs each row is."""
    tokens: Tensor
    """int64 [S]: which token it is."""
    keys: Tensor
    """int64 [S]: its row key."""
    ends: Tensor
    """int32 [E]: the row after each expert's last."""

    def ungrouped(self, rows: Tensor) -> Tensor:
        """Rows [S, N] in the order of the tokens again, the K of a token side by side."""
        back = torch.empty_like(self.order)
        back[self.order] = torch.arange(self.order.numel(), device=self.order.device)
        return rows[back]


def grouped(experts_TK: Tensor, count: int, keys: Tensor, *, stable: bool = False) -> Grouped:
    """Sorts the pairs of a router's choice by expert, without waiting for the device.

    Args:
        experts_TK: integer [T, K], the experts of each token; one from ``count`` on is in no group.
        count: how many experts there are.
        keys: int64 [>= T], the tokens' row keys.
        stable: rows of one expert stay in the order of their tokens.
    """
    expert_S, order = torch.sort(experts_TK.reshape(-1).to(torch.int64), stable=stable)
    bounds = torch.arange(count, device=order.device)
    ends = torch.searchsorted(expert_S, bounds, right=True).to(torch.int32)
    tokens = order // experts_TK.shape[-1]
    return Grouped(order, tokens, random.expert_keys(keys[tokens], expert_S), ends)
