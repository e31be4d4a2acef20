"""Accumulators: how a machine's matrix unit adds up a product of matrices."""

from hetero_plugin.errors.accumulate.arithmetic import (
    HARDWARE,
    OPERANDS,
    Arithmetic,
    Operand,
    arithmetic_of,
)
from hetero_plugin.errors.accumulate.reference import accumulate, blocked

__all__ = [
    "HARDWARE",
    "OPERANDS",
    "Arithmetic",
    "Operand",
    "accumulate",
    "arithmetic_of",
    "blocked",
]
