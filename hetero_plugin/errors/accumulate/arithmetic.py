"""How matrix units add: the published models of machines, and settings of one's own.

After MMA-Sim (arXiv 2511.10909), which probed the hardware. F: bits kept after the point,
L: products added at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["HARDWARE", "KINDS", "OPERANDS", "Arithmetic", "Operand", "arithmetic_of"]

Kind = Literal["aligned", "floored", "pairs", "chain"]
KINDS: tuple[Kind, ...] = ("aligned", "floored", "pairs", "chain")
"""``aligned``: L products and the accumulator are aligned to the largest exponent, cut off toward
zero after F bits, added exactly, and rounded (NVIDIA). ``floored``: the products so, then their sum
and the accumulator aligned and floored (CDNA3). ``pairs``: float32 additions of pairs, everything
subnormal taken for 0 (CDNA2). ``chain``: one fused multiply-add after another, in float32."""


@dataclass(frozen=True)
class Operand:
    """A number type of operands.

    Args:
        smallest: exponent of its smallest normal number; below it mantissas are not normalised.
        size: bytes.
        mantissa: its bits.
        largest: what a row's largest number becomes, for types with a scale of their own; 0: none.
    """

    smallest: int
    size: int
    mantissa: int
    largest: float = 0.0


OPERANDS = {
    "bfloat16": Operand(-126, 2, 7),
    "float16": Operand(-14, 2, 10),
    "tf32": Operand(-126, 4, 10),
    "float32": Operand(-126, 4, 23),
    "e4m3": Operand(-6, 1, 3, 448.0),
    "e5m2": Operand(-14, 1, 2, 57344.0),
}


@dataclass(frozen=True)
class Arithmetic:
    """How a product of matrices is added up.

    Args:
        operand: key of `OPERANDS`.
        kind: one of `KINDS`.
        chunk: L, products that are added at once.
        fraction: F, bits kept after alignment, of kinds ``aligned`` and ``floored``.
        zero: exponent that a zero takes part in alignment with.
        mantissa: bits of the accumulator's.
        nearest: the accumulator is rounded to nearest even rather than toward zero.
        promote: products after which the accumulator is added to a float32 sum and begins anew;
            0: never. A multiple of the chunk.
        split: pieces of K that are added up by themselves, and then to one another in float32.
        halves: a piece's sum is rounded to bfloat16 first.
        reversed: from the last product to the first.
    """

    operand: str
    kind: Kind
    chunk: int
    fraction: int = 0
    zero: int = -133
    mantissa: int = 23
    nearest: bool = False
    promote: int = 0
    split: int = 1
    halves: bool = False
    reversed: bool = False

    @property
    def numbers(self) -> list[int]:
        """What the operator takes."""
        return [
            KINDS.index(self.kind),
            self.chunk,
            self.fraction,
            self.zero,
            OPERANDS[self.operand].smallest,
            self.mantissa,
            int(self.nearest),
            self.promote,
            self.split,
            int(self.halves),
            int(self.reversed),
        ]


_CUT = {"volta": 23, "turing": 24, "ampere": 24, "ada": 24, "hopper": 25, "blackwell": 25}
_BYTES = {"volta": 8, "turing": 16, "ampere": 16, "ada": 16, "hopper": 32, "blackwell": 32}
"""Of one operand in a chunk."""
_TYPES = {
    "volta": ("float16",),
    "turing": ("float16",),
    "ampere": ("bfloat16", "float16", "tf32"),
    "ada": ("bfloat16", "float16", "tf32", "e4m3", "e5m2"),
    "hopper": ("bfloat16", "float16", "tf32", "e4m3", "e5m2"),
    "blackwell": ("bfloat16", "float16", "tf32", "e4m3", "e5m2"),
    "cdna2": ("bfloat16", "float16"),
    "cdna3": ("bfloat16", "float16", "tf32"),
}


def _of(hardware: str, operand: str) -> Arithmetic:
    size = OPERANDS[operand].size
    if hardware == "cdna2":
        return Arithmetic(operand, "pairs", chunk=4, nearest=True)
    if hardware == "cdna3":
        return Arithmetic(operand, "floored", chunk=16 // size, fraction=24, nearest=True)
    fraction, zero = _CUT[hardware], -108 - _CUT[hardware]
    chunk = _BYTES[hardware] // size
    if size == 1 and hardware in ("ada", "hopper"):
        return Arithmetic(operand, "aligned", chunk, 13, zero, mantissa=13)
    return Arithmetic(operand, "aligned", chunk, fraction, zero)


HARDWARE: dict[str, dict[str, Arithmetic]] = {
    name: {operand: _of(name, operand) for operand in operands} for name, operands in _TYPES.items()
}
"""Machine -> operand -> how it adds."""


def arithmetic_of(
    operand: str,
    *,
    hardware: str | None = None,
    chunk: int = 1,
    fraction: int | None = None,
    round: str | None = None,
    promote: int = 0,
    split_k: int = 1,
    partial_dtype: str = "float32",
    order: str = "forward",
) -> Arithmetic:
    """The arithmetic of a rule's options, for operands of a type.

    Args:
        operand: key of `OPERANDS`; ``float32`` is ``tf32`` on hardware.
        hardware: key of `HARDWARE`; None: a unit of ``chunk``, ``fraction`` and ``round``, or, with
            no ``fraction``, float32 additions one after another.

    Raises:
        ValueError: the hardware does not multiply such operands.
    """
    if hardware is not None:
        types = HARDWARE[hardware]
        word = "tf32" if operand == "float32" else operand
        if word not in types:
            raise ValueError(
                f"hardware {hardware!r} has no matrix unit for operands of {word}; it has them "
                f"for {', '.join(types)}"
            )
        made = types[word]
    elif fraction is None:
        made = Arithmetic(operand, "chain", 1, nearest=True)
    else:
        narrow = OPERANDS[operand].mantissa > 11
        made = Arithmetic(
            "tf32" if narrow else operand,
            "aligned",
            chunk,
            fraction,
            -108 - fraction,
            nearest=round == "nearest",
        )
    return replace(
        made,
        promote=promote,
        split=split_k,
        halves=partial_dtype == "bfloat16",
        reversed=order == "reversed",
    )
