"""NoiseRule: which sites get which error, how much, and where."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import field_validator, model_validator

from hetero_plugin.config.base import Frozen, Number
from hetero_plugin.config.error_models import ERROR_MODELS, FORMATS, OPTIONS, REGISTRY
from hetero_plugin.config.layers import as_entries, check_layers, numbers_of
from hetero_plugin.config.problems import ConfigError, did_you_mean

__all__ = ["NoiseRule"]


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

    @property
    def spoils_gradients(self) -> bool:
        """Whether an error in units of the activations is put on gradients too."""
        absolute = REGISTRY[self.error].absolute and not self.relative
        return absolute and self.direction != "forward"

    @model_validator(mode="before")
    @classmethod
    def _whole_format(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("error") in FORMATS and "scale" not in data:
            return {**data, "scale": 1.0}
        return data

    @field_validator("targets", "exclude", mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("layers", mode="before")
    @classmethod
    def _one_layer(cls, value: Any) -> Any:
        return as_entries(value)

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
        return check_layers(layers)

    @model_validator(mode="after")
    def _check_together(self) -> NoiseRule:
        if not self.targets:
            raise ConfigError("targets: got none; a rule without targets would add no error.")
        traits = REGISTRY[self.error]
        for option, models in OPTIONS.items():
            value = getattr(self, option)
            if self.error not in models and value != type(self).model_fields[option].default:
                raise ConfigError(
                    f"{option}: {json.dumps(value)} belongs to the error model "
                    f"{' or '.join(models)}; the model here is {self.error!r}. Leave it out."
                )
        format = traits.number_format
        if "direction" not in self.model_fields_set and (self.spoils_gradients or format):
            self.__dict__["direction"] = "forward"  # frozen, and still being made
        if format and self.direction != "forward":
            raise ConfigError(
                f"direction: got {self.direction!r}; the number format {self.error} acts forward "
                "alone. A gradient's blocks lie along another axis than the activation's, and "
                "would span tokens for weights. Leave direction out."
            )
        if format and self.scale > 1:
            raise ConfigError(
                f"scale: got {self.scale:g}; of a number format it is from 0 (clean) to 1 (the "
                f"format {self.error} itself)."
            )
        return self

    def layer_set(self) -> frozenset[int] | None:
        """The layers as numbers; None for all of them."""
        return numbers_of(self.layers)
