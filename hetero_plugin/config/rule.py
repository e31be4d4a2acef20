"""NoiseRule: which sites get which error, how much, and where."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import ValidationInfo, field_validator, model_validator

from hetero_plugin.config.base import Frozen, Number, no_bool
from hetero_plugin.config.options import NVFP4, OPTIONS, Accumulate
from hetero_plugin.config.problems import ConfigError, did_you_mean, shown

__all__ = ["ABSOLUTE", "ERROR_MODELS", "FORMATS", "NoiseRule"]

# Names and formulas (x the clean value, s the scale, z standard normal, u uniform in ±√3). The
# implementations are in the room `errors`, below this one; a test holds the two lists equal.
ERROR_MODELS: dict[str, str] = {
    "relative_gaussian": "z·|x|·s",
    "absolute_gaussian": "z·s",
    "relative_uniform": "u·|x|·s",
    "systematic_bias": "sign(x)·s, or sign(x)·|x|·s with relative: true",
    "truncation": "floor(x/s)·s − x",
    "deadzone": "−x where |x| < s·max|x|, else 0",
    "nvfp4": "s·(Q(x) − x): E2M1 in blocks of 16",
    "mxfp4": "s·(Q(x) − x): E2M1 in blocks of 32",
    "mxfp6_e2m3": "s·(Q(x) − x): E2M3 in blocks of 32",
    "mxfp6_e3m2": "s·(Q(x) − x): E3M2 in blocks of 32",
    "mxfp8_e4m3": "s·(Q(x) − x): E4M3 in blocks of 32",
    "mxfp8_e5m2": "s·(Q(x) − x): E5M2 in blocks of 32",
    "hif4": "s·(Q(x) − x): HiF4 in blocks of 64",
    "int4": "s·(Q(x) − x): 4-bit integers in groups of 128",
    "fp8_e4m3": "s·(Q(x) − x): E4M3 with a scale a row",
    "fp8_e5m2": "s·(Q(x) − x): E5M2 with a scale a row",
    "int8": "s·(Q(x) − x): 8-bit integers with a scale a row",
    "accumulate": "s·(P(x, W) − x·Wᵀ): the product added up as options say",
}

FORMATS = tuple(name for name, formula in ERROR_MODELS.items() if "Q(x)" in formula)
"""Number formats. Their scale is 1 where it is not given: the format itself, x + 1·(Q(x) − x)."""

WHOLE = (*FORMATS, "accumulate")
"""Errors whose scale is a blend: 0 the clean value, 1 (where none is given) the error itself."""

ABSOLUTE = ("absolute_gaussian", "systematic_bias", "truncation")
"""Errors whose scale is in the units of what they are added to (systematic_bias without
``relative``)."""


# Four digits: a range is written out, and no model has ten thousand layers.
_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


class NoiseRule(Frozen):
    """Which sites get which error, how much, and where.

    Raises:
        ConfigError: unknown key or error model, negative or non-finite scale, bad layer range,
            bad pattern, or settings that contradict each other.
    """

    targets: tuple[str, ...] = ("linear",)
    """what it applies to"""
    exclude: tuple[str, ...] = ()
    """taken out of the targets"""
    error: str = "relative_gaussian"
    """what the error is"""
    scale: Number
    """s of the formula; 0 is exactly the clean model. A number format's is 1 where it is left out.
    A number that float32 takes for infinite is refused, one that it takes for 0 when the model is
    made noisy; σ too"""
    relative: bool = False
    """`systematic_bias` only: s is a share of |x|"""
    point: Literal["input", "output", "weight"] = "output"
    """where it enters"""
    direction: Literal["forward", "backward", "both"] = "both"
    """which pass has it; gradients are far smaller than activations, so an error in units of the
    activations is forward alone unless it is given. A number format is forward alone"""
    phase: Literal["rollout", "train", "both"] = "both"
    """while the model does what: generate, train"""
    layers: tuple[int | str, ...] | None = None
    """a range holds both its ends; sites outside the layers (`model.norm`, `lm_head`) have no
    number"""
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    """how value + error becomes the tensor's dtype"""
    options: Accumulate | NVFP4 | None = None
    """of `accumulate` (a machine, or how to add) and `nvfp4` (where its tensor's scale is from)"""

    @property
    def spoils_gradients(self) -> bool:
        """Whether an error in units of the activations is put on gradients too."""
        return self.error in ABSOLUTE and not self.relative and self.direction != "forward"

    @model_validator(mode="before")
    @classmethod
    def _whole_format(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("error") in WHOLE and "scale" not in data:
            return {**data, "scale": 1.0}
        return data

    @field_validator("targets", "exclude", mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("layers", mode="before")
    @classmethod
    def _one_layer(cls, value: Any) -> Any:
        entries = (value,) if isinstance(value, int | str) else value
        if isinstance(entries, list | tuple):
            for entry in entries:
                no_bool(entry)
        return entries

    @field_validator("targets", "exclude")
    @classmethod
    def _check_words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not word.strip():
                raise ConfigError(f"got {word!r}; it should be a kind, a site name or a pattern.")
            if word.startswith("re:"):
                try:
                    re.compile(word[3:])
                except re.error as error:
                    raise ConfigError(
                        f"got {word!r}, which is not a regular expression: {error}."
                    ) from None
        return words

    @field_validator("error")
    @classmethod
    def _check_error(cls, name: str) -> str:
        if name not in ERROR_MODELS:
            raise ConfigError(
                f"got {name!r}, which is not an error model.{did_you_mean(name, ERROR_MODELS)} "
                f"There are: {', '.join(ERROR_MODELS)}."
            )
        return name

    @field_validator("layers")
    @classmethod
    def _check_layers(cls, layers: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
        if layers is not None:
            if not layers:
                raise ConfigError("got an empty list; leave it out to mean every layer.")
            for entry in layers:
                _layer_range(entry)
        return layers

    @model_validator(mode="after")
    def _check_together(self) -> NoiseRule:
        if not self.targets:
            raise ConfigError("targets: got none; a rule without targets would add no error.")
        if self.relative and self.error != "systematic_bias":
            raise ConfigError(
                f"relative: true belongs to the error model systematic_bias; the model here is "
                f"{self.error!r}. Leave it out."
            )
        self._check_options()
        format = self.error in FORMATS
        forward = self.spoils_gradients or self.error in WHOLE
        if "direction" not in self.model_fields_set and forward:
            self.__dict__["direction"] = "forward"  # frozen, and still being made
        if format and self.direction != "forward":
            raise ConfigError(
                f"direction: got {self.direction!r}; the number format {self.error} acts forward "
                "alone. A gradient's blocks lie along another axis than the activation's, and "
                "would span tokens for weights. Leave direction out."
            )
        if self.error in WHOLE and self.scale > 1:
            word = "a number format" if format else "accumulate"
            raise ConfigError(
                f"scale: got {self.scale:g}; of {word} it is from 0 (clean) to 1 "
                f"({self.error} itself)."
            )
        return self

    @property
    def word(self) -> str:
        """Its error model with its options, as `hetero_plugin.errors.error_model` takes it."""
        if self.error != "nvfp4":
            return self.error
        options = self.options if isinstance(self.options, NVFP4) else NVFP4()
        scale = options.tensor_scale or ("max" if self.point == "weight" else "row")
        return f"nvfp4|{scale}|{options.reference}"

    @field_validator("options", mode="before")
    @classmethod
    def _right_options(cls, value: Any, info: ValidationInfo) -> Any:
        error = info.data.get("error")
        if value is None or error is None:
            return value
        if error not in OPTIONS:
            raise ConfigError(
                f"given for the error model {error!r}, which has none; they belong to "
                f"{' and '.join(OPTIONS)}."
            )
        if isinstance(value, dict):
            return OPTIONS[error](**value)
        if not isinstance(value, OPTIONS[error]):
            raise ConfigError(f"got {shown(value)}; it should be a mapping, of {error}'s options.")
        return value

    def _check_options(self) -> None:
        if self.error == "nvfp4" and self.word.startswith("nvfp4|max") and self.point != "weight":
            raise ConfigError(
                f"options: tensor_scale is 'max' at the {self.point}; the largest activation of a "
                "batch would make a token's error depend on the others. Give 'row', or the number "
                "that calibration found (2688 / max)."
            )
        if self.error != "accumulate":
            return
        if self.options is None:
            raise ConfigError(
                "options: got none; accumulate needs them: a machine, {hardware: hopper}, or how "
                "to add, such as {split_k: 4}."
            )
        if self.point != "output":
            raise ConfigError(
                f"point: got {self.point!r}; accumulate is how a product is added up, which is at "
                "the output. Leave point out."
            )

    def layer_set(self) -> frozenset[int] | None:
        """The layers as numbers; None for all of them."""
        if self.layers is None:
            return None
        return frozenset(i for entry in self.layers for i in _layer_range(entry))


def _layer_range(entry: int | str) -> range:
    """The layers that one entry of ``layers`` names: 3, "3" or "2-5", both ends included."""
    text = (entry if isinstance(entry, str) else shown(entry)).strip()
    match = _RANGE.fullmatch(text)
    if match is None:
        given = shown(entry) if len(text) < 80 else f"{len(text)} characters"
        raise ConfigError(
            f'got {given}; it should be a layer number from 0 to 9999 or a range like "2-5".'
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ConfigError(
            f'got {entry!r}, which ends before it starts; it should be "{last}-{first}".'
        )
    return range(first, last + 1)
