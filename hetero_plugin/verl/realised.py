"""How large the error in the actor really is, measured on the tokens it trains on.

Every ``realised_every`` steps, at each site's first call, forward and backward apart: root mean
square of the error over that of the clean value, after rounding, and the share of elements that
changed, rows that are 0 throughout (padding) left out. An error below the dtype's resolution shows
here, and not in the scale that was asked for.

Of a large tensor a sample of rows is looked at, evenly spaced, so that no more than `ELEMENTS`
elements are copied at a time: `MEMORY` bytes at the most, whatever the batch and the vocabulary.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

ELEMENTS = 1 << 21
"""Elements of one tensor that are looked at."""

MEMORY = ELEMENTS * 4 * 8
"""Bytes that a measurement allocates at its peak: float32 copies of the sample, and index tensors
and products beside them; 64 MiB. A test measures it."""


def due(every: int, step: int) -> bool:
    """Whether the error of noise step ``step`` is measured; ``every`` 0: never."""
    return every > 0 and step % every == 0


def sample(tensor: Tensor, elements: int = ELEMENTS) -> Tensor:
    """Rows of ``tensor`` [..., F], evenly spaced, with at most ``elements`` elements together.

    The whole of a small tensor. At least one row is taken; of a row that is too long by itself,
    every n-th element. Two tensors of one shape are sampled at the same places, and no copy of the
    whole is made, however a tensor's strides are.
    """
    if tensor.numel() <= elements:
        return tensor
    if tensor.ndim == 0:
        return tensor
    step = math.ceil(tensor.shape[-1] / elements)
    tensor = tensor[..., ::step]
    *lead, features = tensor.shape
    rows = math.prod(lead)
    wanted = max(1, elements // max(features, 1))
    if wanted >= rows:
        return tensor
    places = torch.arange(wanted, device=tensor.device) * rows // wanted
    return tensor[torch.unravel_index(places, lead)]


class RealisedError:
    """A recorder for ``perturb.record``; ``kinds`` maps site names to their kinds."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._kinds = kinds
        self._seen: set[tuple[tuple[str, ...], str]] = set()
        self._sums: dict[str, Any] = defaultdict(float)

    def __call__(self, names: tuple[str, ...], stream: str, before: Tensor, after: Tensor) -> None:
        if (names, stream) in self._seen:
            return
        self._seen.add((names, stream))
        kind = next((self._kinds[name] for name in names if name in self._kinds), "other")
        if stream not in ("input", "output", "weight"):
            kind = f"{kind}.{stream}"  # gradients are of another size: not to be summed with values
        x, y = sample(before.detach()).float(), sample(after.detach()).float()
        changed = (y != x).sum().float()
        error = torch.linalg.vector_norm(y - x).square()
        value = torch.linalg.vector_norm(x).square()
        # Rows of padding, which attention makes 0 throughout, are no token's.
        there = ((x != 0) | (y != x)).any(-1) if x.ndim else x.new_ones(())
        count = there.sum() * float(x.shape[-1] if x.ndim else 1)
        self._sums[kind] = self._sums[kind] + torch.stack([error, value, changed, count])

    def metrics(self) -> dict[str, list[float]]:
        """By kind: RMS of error over RMS of value, and the changed share of elements."""
        found: dict[str, list[float]] = {}
        for kind, sums in self._sums.items():
            error, value, changed, count = sums.tolist()
            if value > 0:
                found[f"hetero/realised_error/{kind}"] = [(error / value) ** 0.5]
            found[f"hetero/realised_changed/{kind}"] = [changed / count if count else 0.0]
        return found
