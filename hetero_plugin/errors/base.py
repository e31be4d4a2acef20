"""What an error model is: its traits, from the registry, with its arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from hetero_plugin.config.error_models import REGISTRY, ErrorTraits
from hetero_plugin.errors.formats.numbers import Numbers

__all__ = ["ARITHMETIC", "ErrorModel", "Function", "arithmetic"]

# (clean value x [T, N], scale s [], draws z [T, N] or None) -> [T, N], all of one floating dtype:
# float32 in the operator, float64 in tests. Draws: standard normals, or uniforms in ±1.
Function = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]

ARITHMETIC: dict[str, Function] = {}
"""The arithmetic of each error model, by its name in `REGISTRY`."""


def arithmetic(name: str) -> Callable[[Function], Function]:
    """Declares a function to be the arithmetic of an error model.

    Raises:
        ValueError: the registry has no such name, or the name has its arithmetic already.
    """

    def declare(function: Function) -> Function:
        if name not in REGISTRY:
            raise ValueError(
                f"{function.__module__} has the arithmetic of {name!r}, which is no entry of the "
                "registry; give it one in hetero_plugin/config/error_models.py"
            )
        if name in ARITHMETIC:
            raise ValueError(
                f"{function.__module__} has the arithmetic of {name!r}, and so has "
                f"{ARITHMETIC[name].__module__}; one of the two would be lost"
            )
        ARITHMETIC[name] = function
        return function

    return declare


@dataclass(frozen=True, kw_only=True)
class ErrorModel(ErrorTraits):
    """One kind of hardware error.

    Attributes:
        function: gives the error to add if `additive`, else the new value.
        numbers: of a number format that the native kernels have with these options, what they
            know of it; see `formats.numbers`.
        beyond: of a number format, float32 [T, N] -> bool [T, N]: which elements lie beyond the
            largest number that it has at their block's scale.
        matrix_rows: so many rows of a tensor that holds several matrices, one below the other, are
            one of them, and the error of an element may depend on all of it; 0: it holds one.
        measured_word: of a profile at a kind and size of site, `profile.replay_word`.
    """

    function: Function
    numbers: Numbers | None = None
    beyond: Callable[[Tensor], Tensor] | None = None
    matrix_rows: int = 0
    measured_word: str = ""

    @property
    def native(self) -> bool:
        """Whether the native kernels know it, with these options."""
        return self.kernel is not None or self.numbers is not None or bool(self.measured_word)
