"""Tells the C++ kernel of number formats and profiles, which it knows by numbers and not by name.

Formats without options are told of when the kernel is loaded, all else when a chain is made, in
each process: a `hetero_plugin.operator.Stage` does. The Triton kernels ask `numbers` and
`replay_of`.
"""

from __future__ import annotations

from functools import cache

import torch

from hetero_plugin import random
from hetero_plugin.errors import MODELS, error_model
from hetero_plugin.errors.formats.numbers import Numbers
from hetero_plugin.errors.profile import Replay, replay_of
from hetero_plugin.kernels.checks import DTYPES

__all__ = ["declare", "declare_all", "fixed_clock", "numbers", "register"]


@cache
def numbers(error: str) -> Numbers | None:
    """The numbers of a format, with options (`nvfp4|row|vllm`) or without; None of other errors.

    Raises:
        ValueError: there is no such error model.
    """
    return error_model(error).numbers


@cache
def declare(error: str) -> None:
    """Makes the native kernels of this process know an error model, if it is a number format or
    a profile at a site.

    Args:
        error: the name of an error model, the words of one with options, or a profile's.

    Raises:
        ValueError: there is no such error model.
    """
    if (known := numbers(error)) is not None:
        values = torch.tensor(known.values(), dtype=torch.float64, device="cpu")
        torch.ops.hetero_noise.declare_format(error, values)
    elif error.startswith("profile|"):
        replay = replay_of(error)
        for dtype, table in replay.tables.items():
            limits = torch.tensor(table.limits, dtype=torch.float32, device="cpu")
            values = torch.tensor(table.numbers(fixed_clock(replay)), device="cpu")
            torch.ops.hetero_noise.declare_profile(error, DTYPES.index(dtype), limits, values)


def fixed_clock(replay: Replay) -> int:
    """The clock of what a profile draws for an address once and for all, an int64."""
    return random.clock_key(replay.seed, None)


def declare_all() -> None:
    """`declare` of every format without options."""
    for name in MODELS:
        declare(name)


def _nothing(*given: object) -> None:
    """Without C++ the reference runs, which has the formats' own functions, and the tables."""


def register(library: torch.library.Library) -> None:
    """Defines the operator."""
    library.define("declare_format(str name, Tensor numbers) -> ()")
    library.define("declare_profile(str name, int dtype, Tensor limits, Tensor numbers) -> ()")
    for name in ("declare_format", "declare_profile"):
        library.impl(name, _nothing, "CompositeExplicitAutograd")
