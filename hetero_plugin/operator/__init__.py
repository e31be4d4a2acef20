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

__all__ = [
    "KERNEL",
    "Chain",
    "Part",
    "UnsupportedTensor",
    "is_capturing",
    "perturb",
    "perturb_gradient",
    "record",
]
