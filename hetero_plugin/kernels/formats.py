"""Tells the C++ kernel of number formats, which it knows by numbers and not by name.

Formats without options are told of when the kernel is loaded, others when a chain is made, in each
process: a `hetero_plugin.operator.Stage` does. The Triton kernels ask `numbers`.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from hetero_plugin.errors import MODELS, error_model
from hetero_plugin.errors.formats.numbers import Numbers

__all__ = ["declare", "declare_all", "numbers", "register"]


@cache
def numbers(error: str) -> Numbers | None:
    """The numbers of a format, with options (`nvfp4|row|vllm`) or without; None of other errors.

    Raises:
        ValueError: there is no such error model.
    """
    return error_model(error).numbers


@cache
def declare(error: str) -> None:
    """Makes the native kernels of this process know an error model, if it is a number format.

    Args:
        error: the name of an error model, or the words of one with options.

    Raises:
        ValueError: there is no such error model.
    """
    if (known := numbers(error)) is not None:
        values = torch.tensor(known.values(), dtype=torch.float64, device="cpu")
        torch.ops.hetero_noise.declare_format(error, values)


def declare_all() -> None:
    """`declare` of every format without options."""
    for name in MODELS:
        declare(name)


def _nothing(name: str, values: Tensor) -> None:
    """Without C++ the reference runs, which has the formats' own functions."""


def register(library: torch.library.Library) -> None:
    """Defines the operator."""
    library.define("declare_format(str name, Tensor numbers) -> ()")
    library.impl("declare_format", _nothing, "CompositeExplicitAutograd")
