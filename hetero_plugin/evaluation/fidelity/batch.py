"""One fixed batch of text under many settings of one wrapped model's scale table.

The clean logits are kept; each setting then costs one forward pass. Settings see the same tokens
and the same addressed random numbers, so that what differs between two of them is the setting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hetero_plugin.evaluation.fidelity.panel import RATIO, Rows, token_rows
from hetero_plugin.evaluation.fidelity.text import batches

BATCH = 16  # windows of a forward pass
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and of how much."""
MEASURES = ("kl", "loss", "mean-dlogp", "ratio-out")
"""Means over tokens: KL (clean ‖ noisy), change of the loss, |Δ log-prob| of the next token, all in
nats, and the share of probability ratios outside [0.9, 1.1]."""

Sums = dict[str, np.ndarray]
"""Measure -> float64 [windows], summed over each window's tokens."""


class Batch(Protocol):
    """A text under many settings of one model.

    Attributes:
        tokens: float64 [windows], tokens that are predicted.
        floor: of clean against clean, in batches of another size.
    """

    tokens: np.ndarray
    floor: Sums

    def measure(self) -> Sums:
        """The sums of the model as it is set now, against clean."""


class FixedBatch:
    """The windows of a text, the clean model's logits for them, and the A/A floor.

    Args:
        model: wrapped, in eager mode and evaluation mode. Its scales are the caller's to set.
        windows: token ids, int64 [T], T >= 2.

    Attributes:
        tokens: float64 [windows], tokens that are predicted.
        floor: of the clean model one window at a time against ``BATCH`` together.
    """

    def __init__(self, model: nn.Module, windows: Sequence[Tensor]) -> None:
        from hetero_plugin.hf import disabled

        self.model = model
        self.tokens = np.array([len(window) - 1.0 for window in windows])
        self._clean: list[tuple[Tensor, Tensor]] = []
        found: list[Sums] = []
        with torch.no_grad(), disabled(model):
            for ids in batches(windows, BATCH):
                clean = next_logits(model, ids)
                self._clean.append((ids, clean))
                alone = torch.cat([next_logits(model, row[None]) for row in ids])
                found += _sums(clean, alone, ids)
        self.floor = stacked(found)

    def measure(self) -> Sums:
        """The sums of the model as it is set now, against clean: one forward pass of each batch.

        Raises:
            ValueError: a distribution holds values that are no finite numbers.
        """
        found: list[Sums] = []
        with torch.no_grad():
            for ids, clean in self._clean:
                found += _sums(clean, next_logits(self.model, ids), ids)
        sums = stacked(found)
        if not all(np.isfinite(values).all() for values in sums.values()):
            raise ValueError("a distribution holds values that are no finite numbers")
        return sums


def next_logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits [B, T - 1, V] of the next tokens of ids [B, T], the last one left out."""
    logits = model(input_ids=ids.to(next(model.parameters()).device), use_cache=False).logits
    return logits[:, :-1]


def _sums(clean: Tensor, noisy: Tensor, ids: Tensor) -> list[Sums]:
    targets = ids[:, 1:].to(clean.device)
    return [summed(token_rows(p, q, t)) for p, q, t in zip(clean, noisy, targets, strict=True)]


def summed(rows: Rows) -> Sums:
    """One window's rows, summed over its tokens: each a number."""
    ratio = np.exp(rows["delta_logp"])
    return {
        "kl": rows["kl"].sum(),
        "loss": -rows["delta_logp"].sum(),
        "mean-dlogp": np.abs(rows["delta_logp"]).sum(),
        "ratio-out": ((ratio < RATIO[0]) | (ratio > RATIO[1])).sum(dtype=float),
    }


def stacked(found: Sequence[Sums]) -> Sums:
    """The sums of several windows."""
    return {name: np.array([one[name] for one in found], dtype=float) for name in MEASURES}
