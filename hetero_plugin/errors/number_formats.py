"""Number formats as error models: what a tensor is after it has been stored in one.

Scales belong to a row or to a block of it, unless options say otherwise: a scale of the tensor is
for weights alone (a token's error would depend on its batch), or a number that calibration found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from hetero_plugin.config.error_models import FORMATS as NAMES
from hetero_plugin.config.error_models import REGISTRY, ErrorTraits
from hetero_plugin.errors.base import ErrorModel, Function, arithmetic
from hetero_plugin.errors.formats import FORMATS, GRIDS
from hetero_plugin.errors.formats.elements import Elements, beyond, by_bits
from hetero_plugin.errors.formats.micro import Mode, MXReference, Reference, mx, nvfp4, nvfp4_rows
from hetero_plugin.errors.formats.numbers import Numbers, of_fp8, of_integer, of_mx, of_nvfp4
from hetero_plugin.errors.formats.scaled import FP8Reference, Granularity, fp8, integer

__all__ = ["format_model"]

_NVFP4_BLOCK = 16
_TILE = 128


Apply = Callable[[Tensor, "Elements | None"], Tensor]
"""A format with what is done with its scaled elements; None: they are rounded to nearest."""
_STOCHASTIC = "|stochastic"
_EACH = "|each:"


def _blended(apply: Apply) -> Function:
    def function(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
        q = apply(x.float(), None if z is None else by_bits(z)).to(x.dtype)
        # At 1 the format's own value, which x + (q - x) is not always.
        return torch.where(scale == 1, q, x + scale * (q - x))

    return function


for _name in NAMES:
    arithmetic(_name)(_blended(FORMATS[_name].apply))


@cache
def format_model(words: str) -> ErrorModel:
    """A number format with options.

    Args:
        words: the format's name and its options, as `config.formats` writes them:
            ``nvfp4|SCALE|REFERENCE``, ``mx…|MODE|REFERENCE``,
            ``fp8_…|GRANULARITY|AMAX|FLOOR|REFERENCE``, ``int…|GRANULARITY|AMAX|RANGE``. With or
            without options ``…|stochastic``: elements are rounded to a neighbour by random bits;
            ``…|each:ROWS``: each so many rows are a matrix by themselves.
    """
    if _EACH in words:
        of_one, _, rows = words.partition(_EACH)
        return _of_each(format_model(of_one), words, int(rows))
    if words.endswith(_STOCHASTIC):
        plain = format_model(words.removesuffix(_STOCHASTIC))
        return replace(plain, name=words, draws="rounding", numbers=None)
    name, *options = words.split("|")
    if not options:
        form = FORMATS[name]
        return _model(REGISTRY[name], {}, form.apply, form.numbers)
    made = _nvfp4 if name == "nvfp4" else _mx if name.startswith("mx") else _scaled
    apply, shape, numbers = made(name, options)
    # Of the format's own traits all but what its blocks are.
    return _model(REGISTRY[name], {"name": words, **shape}, apply, numbers)


def _of_each(plain: ErrorModel, words: str, rows: int) -> ErrorModel:
    """A format of each matrix of a tensor that holds several, one below the other."""
    whole = plain.beyond
    assert whole is not None

    def function(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
        return torch.cat([plain.function(one, scale, None) for one in _matrices(x, rows)])

    return replace(
        plain,
        name=words,
        matrix_rows=rows,
        numbers=None,
        function=function,
        beyond=lambda x: torch.cat([whole(one) for one in _matrices(x, rows)]),
    )


def _matrices(x: Tensor, rows: int) -> tuple[Tensor, ...]:
    flat = x.reshape(-1, x.shape[-1])
    if flat.shape[0] % rows:
        raise ValueError(f"matrices of {rows} rows each, and there are {flat.shape[0]} rows")
    return flat.split(rows)


def _model(
    traits: ErrorTraits, other: dict[str, Any], apply: Apply, numbers: Numbers | None
) -> ErrorModel:
    return ErrorModel(
        **{**vars(traits), **other},
        function=_blended(apply),
        numbers=numbers,
        beyond=lambda x: apply(x, beyond).isinf(),
    )


Made = tuple[Apply, dict[str, Any], Numbers | None]
"""Arithmetic, what is other of the traits, and the same for the native kernels; None: tensor
operations, as for orders of operations that those do not have."""


def _nvfp4(name: str, options: list[str]) -> Made:
    scale, reference = options[0], cast(Reference, options[1])
    whole_row = scale in ("max", "row")
    shape = {
        "whole_row": whole_row,
        "block": 0 if whole_row else _NVFP4_BLOCK,
        "whole_tensor": scale == "max",
    }
    word = scale if whole_row else float(scale)
    numbers = of_nvfp4(word, reference) if reference in ("vllm", "compressed-tensors") else None
    if scale == "row":
        return lambda x, how: nvfp4_rows(x, reference, how), shape, numbers
    given = None if scale == "max" else float(scale)
    return lambda x, how: nvfp4(x, given, reference, how), shape, numbers


def _mx(name: str, options: list[str]) -> Made:
    mode, reference = cast(Mode, options[0]), cast(MXReference, options[1])
    numbers = None if reference == "modelopt" else of_mx(GRIDS[name], mode, reference)
    return lambda x, how: mx(x, GRIDS[name], mode, reference, how), {}, numbers


def _scaled(name: str, options: list[str]) -> Made:
    """FP8 and integers: what shares a scale says what an error depends on."""
    shared = options[0]
    granularity: Granularity = int(shared) if shared.isdecimal() else shared
    amax = None if options[1] == "max" else float(options[1])
    shape = {
        "whole_row": shared == "row" or (shared == "tensor" and amax is None),
        "block": granularity if isinstance(granularity, int) else _TILE * (shared == "block"),
        "block_rows": _TILE if shared == "block" else 1,
        "whole_tensor": shared == "tensor" and amax is None,
    }
    if name in GRIDS:
        floor = None if options[2] == "own" else float(options[2])
        reference = cast(FP8Reference, options[3])
        native = amax is None and reference == "compressed-tensors"
        return (
            lambda x, how: fp8(
                x, GRIDS[name], granularity, floor, amax=amax, reference=reference, elements=how
            ),
            shape,
            of_fp8(GRIDS[name], granularity, floor or 0.0) if native else None,
        )
    bits, symmetric = (8 if name == "int8" else 4), options[2] == "symmetric"
    return (
        lambda x, how: integer(x, bits, granularity, symmetric, amax=amax, elements=how),
        shape,
        of_integer(bits, granularity, symmetric) if amax is None else None,
    )
