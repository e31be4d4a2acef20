"""Options of number formats: where scales come from, and whose arithmetic is meant.

Each class says what it means at a rule's point (`check`) and the word by which the arithmetic knows
it (`word`): the format's name where nothing differs from the default, else the name and the options
in a fixed order, ``mxfp4|ceil|ocp``. See `hetero_plugin.errors.number_formats`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from hetero_plugin.config.base import Frozen, no_bool
from hetero_plugin.config.problems import ConfigError

__all__ = ["FP8", "MX", "NVFP4", "FormatOptions", "Integer"]

_Positive = Annotated[float, BeforeValidator(no_bool), Field(gt=0, lt=3e38)]
_Columns = Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=1 << 20)]


class FormatOptions(Frozen):
    """What the options of every number format have in common."""

    @property
    def shares(self) -> bool:
        """Whether the layers that a serving engine fuses have one scale of their weights."""
        return False

    def check(self, error: str, point: str) -> None:
        """Raises ConfigError for options without a meaning for a format or at a point."""

    def word(self, error: str, point: str) -> str:
        """What `hetero_plugin.errors.error_model` takes for the format ``error`` at ``point``."""
        raise NotImplementedError


def _check_share(share: str | None, of_tensor: bool, point: str, instead: str) -> None:
    """Raises ConfigError where ``share`` has nothing to share."""
    if share is None:
        return
    if point != "weight":
        raise ConfigError(
            f"options: share is {share!r} at the {point}; it is one scale for the weights of q, k "
            "and v, and of gate and up. Give it at point: weight, or leave it out."
        )
    if not of_tensor:
        raise ConfigError(
            f"options: share is {share!r}, and there is no scale of the tensor to share; give "
            f"{instead}, or leave share out."
        )


class NVFP4(FormatOptions):
    """NVFP4's scale of the whole tensor, and whose order of operations.

    Raises:
        ConfigError: an unknown key or value.
    """

    tensor_scale: Literal["max", "row"] | _Positive | None = None
    """2688 / max of the tensor (`max`, weights alone), of each row, or that number itself; none:
    `max` for weights, `row` elsewhere"""
    reference: Literal["vllm", "compressed-tensors", "torchao", "modelopt"] = "vllm"
    """whose arithmetic, to the bit"""
    share: Literal["fused"] | None = None
    """weights: one scale for q, k and v together and one for gate and up, as llm-compressor has it;
    none: each its own"""

    @property
    def shares(self) -> bool:
        return self.share is not None

    def _scale(self, point: str) -> str | float:
        return self.tensor_scale or ("max" if point == "weight" else "row")

    def check(self, error: str, point: str) -> None:
        if self._scale(point) == "max" and point != "weight":
            raise ConfigError(
                f"options: tensor_scale is 'max' at the {point}; the largest activation of a "
                "batch would make a token's error depend on the others. Give 'row', or the number "
                "that calibration found (2688 / max)."
            )
        _check_share(self.share, self._scale(point) == "max", point, "tensor_scale: max")

    def word(self, error: str, point: str) -> str:
        return f"{error}|{self._scale(point)}|{self.reference}"


class MX(FormatOptions):
    """How a block's power of two is chosen, and whose arithmetic.

    Raises:
        ConfigError: an unknown key or value, or a mode beside a reference that has its own.
    """

    scale_mode: Literal["floor", "ceil", "even", "rceil"] | None = None
    """the power of two from a block's largest number: down, up, after rounding that number to the
    grid's mantissa, or the smallest under which it does not saturate; none: `floor`, OCP's"""
    reference: Literal["ocp", "compressed-tensors", "modelopt"] = "ocp"
    """whose arithmetic: `compressed-tensors` has the mode `even` with one bit of mantissa for every
    grid, `modelopt` (MXFP4) `rceil` with all ties down"""

    @model_validator(mode="after")
    def _check_together(self) -> MX:
        if self.reference != "ocp" and self.scale_mode is not None:
            raise ConfigError(
                f"scale_mode: got {self.scale_mode!r} with reference: {self.reference}, which has "
                "a mode of its own; leave out one or the other."
            )
        return self

    def check(self, error: str, point: str) -> None:
        if self.reference == "modelopt" and error != "mxfp4":
            raise ConfigError(
                f"options: reference is 'modelopt' for {error}; its peculiar rounding is that of "
                "mxfp4. Elsewhere it is scale_mode: rceil."
            )

    def word(self, error: str, point: str) -> str:
        mode = self.scale_mode or "floor"
        if self.reference != "ocp":
            mode = "even" if self.reference == "compressed-tensors" else "rceil"
        elif mode == "floor":
            return error
        return f"{error}|{mode}|{self.reference}"


class _Scaled(FormatOptions):
    """A float32 scale for a tensor, a row, a group of columns or a tile."""

    amax: _Positive | None = None
    """`granularity: tensor` only: the largest magnitude that calibration found; what is beyond it
    saturates. None: the tensor's own, for weights"""
    share: Literal["fused"] | None = None
    """weights with `granularity: tensor`: one scale for q, k and v together and one for gate and
    up; none: each its own"""

    @property
    def shares(self) -> bool:
        return self.share is not None

    def _check_scale(self, error: str, point: str, granularity: str | int) -> None:
        if self.amax is not None and granularity != "tensor":
            raise ConfigError(
                f"options: amax is {self.amax:g} with granularity: {granularity}, whose scales are "
                "those of the values; it belongs to granularity: tensor."
            )
        if granularity == "tensor" and self.amax is None and point != "weight":
            raise ConfigError(
                f"options: granularity is 'tensor' at the {point}; the largest activation of a "
                "batch would make a token's error depend on the others. Give amax, the largest "
                "that calibration found, or granularity: row."
            )
        if granularity == "block" and point != "weight":
            raise ConfigError(
                f"options: granularity is 'block' at the {point}; a tile of 128 rows would hold "
                "several tokens, and a token's error depend on the others. Give granularity: 128."
            )
        of_tensor = granularity == "tensor" and self.amax is None
        _check_share(self.share, of_tensor, point, "granularity: tensor")


class FP8(_Scaled):
    """What shares a scale, its floor, and whose arithmetic.

    Raises:
        ConfigError: an unknown key or value.
    """

    granularity: Literal["tensor", "row", "block"] | _Columns = "row"
    """what shares a scale: the tensor, a row, so many columns of one, or a tile of 128 x 128 of a
    weight (`block`)"""
    floor: Annotated[float, BeforeValidator(no_bool), Field(ge=0, lt=1)] | None = None
    """the smallest scale; none: 0, of vLLM 1 / (448 * 512)"""
    reference: Literal["compressed-tensors", "vllm"] = "compressed-tensors"
    """whose arithmetic, to the bit: `compressed-tensors` divides by the scale, `vllm` multiplies by
    its reciprocal (but for groups)"""

    def check(self, error: str, point: str) -> None:
        self._check_scale(error, point, self.granularity)

    def word(self, error: str, point: str) -> str:
        if self.model_copy(update={"share": None}) == type(self)():
            return error
        floor = "own" if self.floor is None else repr(self.floor)
        amax = "max" if self.amax is None else repr(self.amax)
        return f"{error}|{self.granularity}|{amax}|{floor}|{self.reference}"


class Integer(_Scaled):
    """What shares a scale, and the range of the integers.

    Raises:
        ConfigError: an unknown key or value.
    """

    granularity: Literal["tensor", "row"] | _Columns | None = None
    """what shares a scale: the tensor, a row, or so many columns of one; none: the row for int8,
    128 columns for int4"""
    symmetric: bool = False
    """integers from -127 (-7) with the scale max / 127 (7); else compressed-tensors', from -128
    (-8) with max / 127.5 (7.5)"""

    def _shared(self, error: str) -> str | int:
        return self.granularity or ("row" if error == "int8" else 128)

    def check(self, error: str, point: str) -> None:
        self._check_scale(error, point, self._shared(error))

    def word(self, error: str, point: str) -> str:
        granularity = self._shared(error)
        plain = granularity == type(self)()._shared(error)
        if plain and not self.symmetric:
            return error
        amax = "max" if self.amax is None else repr(self.amax)
        symmetric = "symmetric" if self.symmetric else "full"
        return f"{error}|{granularity}|{amax}|{symmetric}"
