"""What belongs to a wrapped model when something of it is copied.

A copy of the model has its own state and rows. A copy of a layer alone, such as PEFT's
modules_to_save makes, is one more layer of the same model: it shares the site, the state and the
rows.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

__all__ = ["OfAModel"]


class OfAModel:
    """Is copied with the decoder of its model, and shared by copies of anything less."""

    def _holders(self) -> list[nn.Module]:
        """The decoder and the modules of its model that hold it; none: not known."""
        attachment = getattr(getattr(self, "context", self), "attachment", None)
        return [] if attachment is None else attachment.holders

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        holders = self._holders()
        if holders and not any(id(module) in memo for module in holders):
            return self
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        kept = getattr(self, "__getstate__", self.__dict__.copy)()
        getattr(made, "__setstate__", made.__dict__.update)(copy.deepcopy(kept, memo))
        return made
