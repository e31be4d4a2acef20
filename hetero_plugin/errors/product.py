"""The error model `accumulate`, which is of a product of matrices and not of its result."""

from __future__ import annotations

from torch import Tensor

from hetero_plugin.errors.base import arithmetic


@arithmetic("accumulate")
def _of_a_product(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
    raise TypeError(
        "the error model accumulate needs a product's operands, and not its result: see "
        "hetero_plugin.operator.Product"
    )
