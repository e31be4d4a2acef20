"""The operator: a clean value, an error model and keys in; the perturbed value out."""

from hetero_plugin.operator.chain import (
    KERNEL,
    Chain,
    Part,
    UnsupportedTensor,
    is_capturing,
    perturb,
    perturb_gradient,
    record,
)
from hetero_plugin.operator.product import Product, linear

__all__ = [
    "KERNEL",
    "Chain",
    "Part",
    "Product",
    "UnsupportedTensor",
    "is_capturing",
    "linear",
    "perturb",
    "perturb_gradient",
    "record",
]
