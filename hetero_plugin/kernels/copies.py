"""What a copy of a state must not share with its original, however it was made or sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["own"]


def own(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a copied object, with tensors that it alone has and can write in place.

    A copy made under ``inference_mode`` has tensors that nobody may write once that has ended, and
    one that was sent to another process shares its memory with the sender. For ``__setstate__``,
    which deepcopy, pickle and torch.load all go through.
    """
    return {name: _plain(value) for name, value in attributes.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor) and (value.is_inference() or value.is_shared()):
        with torch.inference_mode(False):
            return value.clone()
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # tensors under names
        return type(value)(*map(_plain, value))
    return value
