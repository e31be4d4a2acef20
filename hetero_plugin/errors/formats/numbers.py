"""A number format as a few numbers, which is what the native kernels know of it.

They have no format by name: grid, block, rule of the scale. `None` where they do not take options;
the format then runs as tensor operations. The kernels are kernels/cpu/formats.h, in C++, and
kernels/cuda/formats.py, in Triton.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

from hetero_plugin.errors.formats.grid import E2M1, Grid

__all__ = [
    "BLOCKS",
    "HIF4",
    "Numbers",
    "Rule",
    "Span",
    "of_fp8",
    "of_integer",
    "of_mx",
    "of_nvfp4",
]

BLOCKS = (16, 32, 64, 128, 256, 512)
"""Columns of a block that the kernels take."""


class Rule(IntEnum):
    """How a block's scale comes from its largest number."""

    FLOOR = 0
    """Powers of two, as in `micro.mx`; so are the next three."""
    CEIL = 1
    EVEN = 2
    RCEIL = 3
    SCALED = 4
    """max|x| / divisor, as in `scaled`."""
    NVFP4 = 5
    NVFP4_DIVIDED = 6
    """compressed-tensors' order."""
    HIF4 = 7


class Span(IntEnum):
    """What has one more scale, or the only one."""

    BLOCK = 0
    ROW = 1
    TENSOR = 2


@dataclass(frozen=True)
class Numbers:
    """A number format for the native kernels.

    Args:
        rule: of the scale.
        span: the largest number of what is needed beside those of blocks.
        block: columns that share a scale, of `BLOCKS`; 0: those of the span.
        mantissa, smallest, low, high: of the grid of elements, as in `grid.Grid`; an integer's
            numbers are those of one whose subnormals go up to the end.
        kept: bits of mantissa, of EVEN.
        divisor, floor: of SCALED.
        outer: NVFP4's tensor scale, if it is a number.
    """

    rule: Rule
    span: Span = Span.BLOCK
    block: int = 0
    mantissa: int = 1
    smallest: int = 0
    kept: int = 1
    low: float = -6.0
    high: float = 6.0
    divisor: float = 1.0
    floor: float = 0.0
    outer: float = 0.0

    def values(self) -> list[float]:
        """In the order of C++'s struct."""
        return [float(getattr(self, one)) for one in ("rule", "span", "block", *_REST)]


_REST = tuple(one.name for one in fields(Numbers))[3:]
HIF4 = Numbers(Rule.HIF4, block=64)


def _grid(grid: Grid) -> dict[str, float | int]:
    return {
        "mantissa": grid.mantissa,
        "smallest": grid.smallest,
        "low": -grid.largest,
        "high": grid.largest,
    }


def _shared(granularity: str | int) -> tuple[Span, int] | None:
    """Span and block of what shares a scale."""
    if granularity in ("row", "tensor"):
        return Span[str(granularity).upper()], 0
    if isinstance(granularity, int) and granularity in BLOCKS:
        return Span.BLOCK, granularity
    return None


def of_mx(grid: Grid, mode: str = "floor", reference: str = "ocp") -> Numbers | None:
    """`micro.mx` with the same arguments."""
    kept = E2M1.mantissa if reference == "compressed-tensors" else grid.mantissa
    return Numbers(Rule[mode.upper()], Span.BLOCK, 32, kept=kept, **_grid(grid))  # type: ignore[arg-type]


def of_fp8(grid: Grid, granularity: str | int = "row", floor: float = 0.0) -> Numbers | None:
    """`scaled.fp8` with the same arguments."""
    if (shared := _shared(granularity)) is None:
        return None
    return Numbers(Rule.SCALED, *shared, divisor=grid.largest, floor=floor, **_grid(grid))  # type: ignore[arg-type]


def of_integer(
    bits: int, granularity: str | int = "row", symmetric: bool = False
) -> Numbers | None:
    """`scaled.integer` with the same arguments."""
    if (shared := _shared(granularity)) is None:
        return None
    high = 2 ** (bits - 1) - 1
    return Numbers(
        Rule.SCALED,
        *shared,
        mantissa=bits,  # steps of 1 up to 2**bits
        smallest=bits,
        low=float(-high if symmetric else -high - 1),
        high=float(high),
        divisor=float(high) if symmetric else (2**bits - 1) / 2.0,
    )


def of_nvfp4(scale: float | str = "max", reference: str = "vllm") -> Numbers | None:
    """`micro.nvfp4` with the scale of a rule: a number, ``row`` or ``max``, the tensor's."""
    rule = Rule.NVFP4_DIVIDED if reference == "compressed-tensors" else Rule.NVFP4
    if scale in ("row", "max"):
        return Numbers(rule, Span.ROW if scale == "row" else Span.TENSOR, 16)
    return Numbers(rule, Span.BLOCK, 16, outer=float(scale))
