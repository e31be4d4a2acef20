"""What an error is drawn from: who the rows are, when, and how much."""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["SETTING", "Draw", "digest"]

SETTING = threading.Lock()
"""Held while scales are set, and while a pass copies them: the tensor and the Python numbers that
say the same are one setting, also for a thread that begins a pass meanwhile. A state has none of
its own, since states are copied and pickled."""


class Draw(NamedTuple):
    """The three tensors that every operator reads, beside its own segments.

    Of an engine with static buffers they are `NoiseState.draw`, written in place before each pass;
    of a Hugging Face model they are a pass's own, copies that its recomputation and its backward
    pass read again. A NamedTuple, because compilers open it into its tensors and it costs no call.
    """

    keys: Tensor
    """int64 [>= T]: who each row is (`hetero_plugin.random.row_keys`)."""
    clock: Tensor
    """int64 [1]: seed and resample key (`hetero_plugin.random.clock_key`)."""
    scales: Tensor
    """float32 [slots], the scale table: one entry for each stream of each rule at each site."""

    def of(self, keys: Tensor) -> Draw:
        """The same for other rows."""
        return Draw(keys, self.clock, self.scales)

    def to(self, device: torch.device) -> Draw:
        """The same on a device; these tensors where they are there already."""
        return Draw(self.keys.to(device), self.clock.to(device), self.scales.to(device))


def digest(tensors: Iterable[Tensor]) -> str:
    """Sixteen hexadecimal digits of the tensors' bytes, in their order: for ranks to compare.

    Two processes with the same setting can hold different tensors (a write that went astray,
    another seed), and it is the tensors that the error comes from. Waits for the device.
    """
    found = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        found.update(ctypes.string_at(plain.data_ptr(), plain.nbytes) if plain.nbytes else b"")
    return found.hexdigest()[:16]
