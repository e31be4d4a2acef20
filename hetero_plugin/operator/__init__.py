"""The operator: a clean value, an error model and keys in; the perturbed value out."""

from hetero_plugin.operator.chain import (
    KERNEL,
    Chain,
    Part,
    UnsupportedTensor,
    is_capturing,
    is_recording,
    perturb,
    perturb_gradient,
    record,
)
from hetero_plugin.operator.dgrad import dgrad_linear
from hetero_plugin.operator.experts import Grouped, grouped
from hetero_plugin.operator.product import Product, linear

__all__ = [
    "KERNEL",
    "Chain",
    "Grouped",
    "Part",
    "Product",
    "UnsupportedTensor",
    "dgrad_linear",
    "grouped",
    "is_capturing",
    "is_recording",
    "linear",
    "perturb",
    "perturb_gradient",
    "record",
]
