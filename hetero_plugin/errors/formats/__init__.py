"""Number formats: what a tensor is after it has been stored in one.

`FORMATS` names them. Each is a function of a float32 tensor [..., N], whose blocks and rows lie
along the last dimension, and gives float32: the very values that the format holds. Definitions: OCP
Microscaling v1.0 for MX, NVIDIA's for NVFP4, arXiv 2602.11287 for HiF4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from hetero_plugin.errors.formats.grid import E2M1, E2M3, E3M2, E4M3, E5M2, Grid
from hetero_plugin.errors.formats.micro import hif4, mx, nvfp4
from hetero_plugin.errors.formats.numbers import (
    HIF4,
    Numbers,
    of_fp8,
    of_integer,
    of_mx,
    of_nvfp4,
)
from hetero_plugin.errors.formats.scaled import fp8, integer

__all__ = ["FORMATS", "GRIDS", "Format"]


GRIDS = {
    "mxfp4": E2M1,
    "mxfp6_e2m3": E2M3,
    "mxfp6_e3m2": E3M2,
    "mxfp8_e4m3": E4M3,
    "mxfp8_e5m2": E5M2,
    "fp8_e4m3": E4M3,
    "fp8_e5m2": E5M2,
}
"""The numbers of the elements of MX formats and of FP8."""


@dataclass(frozen=True)
class Format:
    """A number format.

    Args:
        name: as in `FORMATS`.
        bits: of a value, its share of the block's scale included.
        apply: float32 [..., N] -> float32 [..., N]. Of an error model it takes a second argument,
            what is done with the scaled elements (`formats.elements`); None: they are rounded.
        help: one line for people.
        numbers: the same as `apply` for the native kernels; None: they do not have it.
    """

    name: str
    bits: float
    apply: Callable[..., Tensor]
    help: str
    numbers: Numbers | None = None


def _mx(name: str, grid: Grid, help: str) -> Format:
    bits = int(name[4]) + 0.25
    return Format(name, bits, lambda x, how=None: mx(x, grid, elements=how), help, of_mx(grid))


def _fp8(name: str, grid: Grid, help: str) -> Format:
    return Format(name, 8.0, lambda x, how=None: fp8(x, grid, elements=how), help, of_fp8(grid))


def _made(*formats: Format) -> dict[str, Format]:
    return {one.name: one for one in formats}


FORMATS: dict[str, Format] = _made(
    Format(
        "nvfp4",
        4.5,
        lambda x, how=None: nvfp4(x, elements=how),
        "E2M1, blocks of 16 scaled in E4M3, one scale a tensor",
        of_nvfp4(),
    ),
    _mx("mxfp4", E2M1, "E2M1, blocks of 32 scaled by a power of two"),
    Format("hif4", 4.5, hif4, "quarters up to 1.75, blocks of 64 with three levels of scale", HIF4),
    Format(
        "int4",
        4.25,
        lambda x, how=None: integer(x, 4, 128, elements=how),
        "groups of 128, compressed-tensors' range",
        of_integer(4, 128),
    ),
    _mx("mxfp6_e2m3", E2M3, "E2M3, blocks of 32"),
    _mx("mxfp6_e3m2", E3M2, "E3M2, blocks of 32"),
    _mx("mxfp8_e4m3", E4M3, "E4M3, blocks of 32"),
    _mx("mxfp8_e5m2", E5M2, "E5M2, blocks of 32"),
    _fp8("fp8_e4m3", E4M3, "E4M3, one scale a row"),
    _fp8("fp8_e5m2", E5M2, "E5M2, one scale a row"),
    Format(
        "int8",
        8.0,
        lambda x, how=None: integer(x, 8, elements=how),
        "one scale a row, compressed-tensors' range",
        of_integer(8),
    ),
    Format("bfloat16", 16.0, lambda x: x.bfloat16().float(), "8 bits of exponent, 7 of mantissa"),
    Format("float16", 16.0, lambda x: x.half().float(), "5 bits of exponent, 10 of mantissa"),
)
