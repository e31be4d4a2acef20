"""Options of error models that have some: `NoiseRule.options`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from hetero_plugin.config.base import Frozen
from hetero_plugin.config.formats import FP8, MX, NVFP4, FormatOptions, Integer
from hetero_plugin.config.problems import ConfigError, shown

__all__ = [
    "FP8",
    "MX",
    "NVFP4",
    "OPTIONS",
    "Accumulate",
    "FormatOptions",
    "Integer",
    "refuse_misplaced",
]

_NO_FP8 = ("volta", "turing", "ampere", "cdna2", "cdna3")
_AMD = ("cdna2", "cdna3")
_CHUNKS = 32
"""The longest chunk of any hardware: what `promote` is a multiple of there."""


class Accumulate(Frozen):
    """How products of matrices are added up: as a machine does, or a unit of one's own.

    Raises:
        ConfigError: an unknown key, or options that contradict one another.
    """

    hardware: (
        Literal["volta", "turing", "ampere", "ada", "hopper", "blackwell", "cdna2", "cdna3"] | None
    ) = None
    """whose matrix unit; none: `chunk` and `fraction`, or float32 additions one after another"""
    mode: Literal["exact", "chunk"] = "exact"
    """bit for bit, or a float32 product of matrices a chunk, which only rounds toward zero"""
    operands: Literal["e4m3", "e5m2"] | None = None
    """FP8 with a scale a row for both operands; none: the tensors' own dtype, float32 as TF32"""
    chunk: int | None = Field(default=None, ge=1, le=64)
    """products that are added at once"""
    fraction: int | None = Field(default=None, ge=8, le=25)
    """bits kept after the point of a chunk's largest exponent"""
    round: Literal["zero", "nearest"] | None = None
    """of the accumulator, after each chunk; none: toward zero, as machines do"""
    promote: int = Field(default=0, ge=0)
    """products after which the accumulator goes into a float32 sum; 0: never"""
    split_k: int = Field(default=1, ge=1, le=64)
    """pieces of the sum that are added up by themselves"""
    partial_dtype: Literal["float32", "bfloat16"] = "float32"
    """what the sum of a piece is rounded to"""
    order: Literal["forward", "reversed"] = "forward"
    """of the additions"""

    @property
    def words(self) -> str:
        """As JSON in one form: what the operator takes."""
        return json.dumps(self.model_dump(exclude_none=True), sort_keys=True)

    @model_validator(mode="after")
    def _check_together(self) -> Accumulate:
        if self.hardware is not None:
            given = [
                name for name in ("chunk", "fraction", "round") if getattr(self, name) is not None
            ]
            if given:
                raise ConfigError(
                    f"{', '.join(given)}: given beside hardware: {self.hardware}, which says so "
                    "itself; leave out one or the other."
                )
        elif (self.chunk is None) != (self.fraction is None):
            raise ConfigError(
                f"chunk: got {self.chunk} with fraction: {self.fraction}; a unit that adds several "
                "products at once has both, float32 additions one after another neither."
            )
        elif self.fraction is None and self.round is not None:
            raise ConfigError(
                f"round: got {self.round!r} without chunk and fraction; float32 additions round to "
                "nearest. Give both, or leave it out."
            )
        if self.operands is not None and self.hardware in _NO_FP8:
            raise ConfigError(
                f"operands: got {self.operands!r}, which the matrix unit of {self.hardware} does "
                "not take as it is here; ada, hopper and blackwell do."
            )
        self._check_mode()
        whole = _CHUNKS if self.hardware is not None else self.chunk or 1
        if self.promote % whole:
            raise ConfigError(
                f"promote: got {self.promote}; it should be a multiple of the chunk, {whole} here."
            )
        if self.partial_dtype != "float32" and self.split_k == 1:
            raise ConfigError(
                f"partial_dtype: got {self.partial_dtype!r} with split_k: 1; it is about the sums "
                "of several pieces. Give split_k, or leave it out."
            )
        return self

    def _check_mode(self) -> None:
        if self.mode == "exact":
            return
        if self.operands is not None:
            raise ConfigError(
                "mode: got 'chunk' with operands in FP8, whose error lies in what is cut off at "
                "alignment, which this leaves out: it would be too small by up to 25 times. Use "
                "mode: exact."
            )
        if self.hardware in _AMD or (self.hardware is None and self.fraction is None):
            raise ConfigError(
                "mode: got 'chunk', which is about units that add a chunk and round toward zero: "
                "NVIDIA's, or chunk and fraction. Use mode: exact."
            )
        if self.hardware is None and self.round == "nearest":
            raise ConfigError("mode: got 'chunk' with round: nearest; it rounds toward zero alone.")


_FORMATS: dict[str, type[FormatOptions]] = {
    "nvfp4": NVFP4,
    **dict.fromkeys(("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2"), MX),
    **dict.fromkeys(("fp8_e4m3", "fp8_e5m2"), FP8),
    **dict.fromkeys(("int8", "int4"), Integer),
}
OPTIONS: dict[str, type[Accumulate] | type[FormatOptions]] = {"accumulate": Accumulate, **_FORMATS}
"""Error model -> its options."""


def refuse_misplaced(data: Any, known: Iterable[str]) -> None:
    """Says where an option of an error model belongs that is written beside ``error``.

    Args:
        data: what was given for a rule; anything but a mapping is left to others.
        known: the keys that may be written there.

    Raises:
        ConfigError: a key is no known one, and an option of the error model.
    """
    kind = OPTIONS.get(str(data.get("error"))) if isinstance(data, Mapping) else None
    if kind is None:
        return
    for key in sorted(map(str, data.keys() - set(known))):
        if key in kind.model_fields:
            raise ConfigError(
                f"{key!r} is an option of {data['error']}; write options: "
                f"{{{key}: {shown(data[key])}}}."
            )
