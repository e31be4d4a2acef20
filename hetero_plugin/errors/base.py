"""What an error model is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

# (clean value x [T, N], scale s [], draws z [T, N] or None) -> [T, N], all of one floating dtype:
# float32 in the operator, float64 in tests. Draws: standard normals, or uniforms in ±1.
Function = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


@dataclass(frozen=True)
class ErrorModel:
    """One kind of hardware error.

    Attributes:
        name: the word used in a rule's ``error``.
        function: gives the error to add if `additive`, else the new value.
        additive: the error is added, and the sum rounded stochastically by default; a model that
            is not (truncation, a number format) rounds by itself and is rounded to nearest.
        draws: what z is: ``normal``, ``uniform`` or None, for an error that is not random.
        native: the C++ kernel knows it; others run as tensor operations.
        help: one line for people.
        whole_row: the error of an element depends on the others of its row, so that a rank with a
            share of the columns can't compute it. On other rows it may never depend: a row's error
            is its own, in any batch.
        block: the error of an element depends on so many columns from a multiple of them on; 0: it
            does not. A rank's share must begin and end at such a multiple.
    """

    name: str
    function: Function
    additive: bool
    draws: Literal["normal", "uniform"] | None
    native: bool
    help: str
    whole_row: bool = False
    block: int = 0
    whole_tensor: bool = False
    """The error of an element depends on the others of its tensor: for weights alone, and not where
    ranks have shares of one."""
