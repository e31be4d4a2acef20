"""The operator that writes the row keys of a forward pass: one launch a step, in graphs too."""

from __future__ import annotations

import torch
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.kernels.fused import nothing

SCHEMA = "row_keys_(Tensor(a!) out, Tensor token_ids, Tensor positions) -> ()"


def row_keys_(out: Tensor, token_ids: Tensor, positions: Tensor) -> None:
    """`hetero_plugin.random.row_keys`, into ``out``.

    Args:
        out: int64 [n], contiguous.
        token_ids, positions: integer [n], contiguous.
    """
    out.copy_(random.row_keys(token_ids, positions))


def register(library: torch.library.Library) -> None:
    """Defines the operator."""
    library.define(SCHEMA)
    library.impl("row_keys_", row_keys_, "CompositeExplicitAutograd")
    torch.library.register_fake("hetero_noise::row_keys_", nothing, lib=library)
