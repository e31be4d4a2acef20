"""NoiseRule: which sites get which error, how much, and where."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from hetero_plugin.config.base import Frozen, Number
from hetero_plugin.config.error_models import BLENDS, ERROR_MODELS, KEYS, REGISTRY
from hetero_plugin.config.layers import as_entries, check_layers, numbers_of
from hetero_plugin.config.options import (
    FP8,
    MX,
    NVFP4,
    OPTIONS,
    Accumulate,
    FormatOptions,
    Integer,
    refuse_misplaced,
)
from hetero_plugin.config.problems import ConfigError, did_you_mean, shown
from hetero_plugin.config.profile import load_profile, settled_path

__all__ = ["NoiseRule"]

_WGRAD = ("wgrad", "grad_weight")
_DGRAD = ("dgrad", "grad_input", "grad_output")


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
    activations is forward alone unless it is given. A number format is forward alone
    unless it is given, and then on what a layer multiplies for the gradient of its input"""
    phase: Literal["rollout", "train", "both"] = "both"
    """while the model does what: generate, train"""
    layers: tuple[int | str, ...] | None = None
    """a range holds both its ends; sites outside the layers (`model.norm`, `lm_head`) have no
    number"""
    rounding: Literal["stochastic", "nearest"] = "stochastic"
    """how value + error becomes the tensor's dtype"""
    ste: Literal["identity", "clipped"] = "identity"
    """number formats: straight-through estimator of the input or weight that is rounded: every
    element's gradient passes, or is 0 where the element lies beyond the largest number that the
    format has at its block's scale"""
    gradient_rounding: Literal["nearest", "stochastic"] = "nearest"
    """number formats with `point: input` and `direction: both` or `backward`: how the elements of
    the gradient that comes back are rounded to the format, before the product for the gradient of
    the input"""
    options: Accumulate | NVFP4 | MX | FP8 | Integer | None = None
    """of `accumulate` (a machine, or how to add) and number formats (where scales are from, whose
    arithmetic)"""
    path: str | None = None
    """`profile` only: the .profile file, or the name of one that comes with the package; in a
    specification that is a file, relative to it"""
    digest: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """`profile` only: of the profile that is meant; none: read from the file, once. A process whose
    file has another refuses"""

    @property
    def spoils_gradients(self) -> bool:
        """Whether an error in units of the activations is put on gradients too."""
        absolute = REGISTRY[self.error].absolute and not self.relative
        return absolute and self.direction != "forward"

    @model_validator(mode="before")
    @classmethod
    def _whole_format(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("error") in BLENDS and "scale" not in data:
            return {**data, "scale": 1.0}
        return data

    @model_validator(mode="before")
    @classmethod
    def _options_in_options(cls, data: Any) -> Any:
        refuse_misplaced(data, cls.known_keys())
        return data

    @field_validator("point", "direction", mode="before")
    @classmethod
    def _no_product(cls, value: Any, info: ValidationInfo) -> Any:
        if value in _WGRAD:
            raise ConfigError(
                f"got {value!r}; the product for the gradient of a weight sums over the tokens of "
                "a batch, so blocks of its operands would run along them, and a token's error "
                "depend on the others: it is computed without a number format. direction: both "
                "has the product for the gradient of the input in it, and other errors on both "
                "gradients."
            )
        if value in _DGRAD:
            raise ConfigError(
                f"got {value!r}; what a layer multiplies for the gradient of its input is in the "
                "number format with direction: both or backward: what comes back with point: "
                "input, the weight with point: weight."
            )
        return value

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
        self._check_options()
        traits = REGISTRY[self.error]
        if traits.measured:
            self._check_profile()
        for key, models in KEYS.items():
            value = getattr(self, key)
            if self.error not in models and value != type(self).model_fields[key].default:
                raise ConfigError(
                    f"{key}: {json.dumps(value)} belongs to the error model "
                    f"{' or '.join(models)}; the model here is {self.error!r}. Leave it out."
                )
        format = traits.number_format
        if "direction" not in self.model_fields_set and (self.spoils_gradients or traits.blend):
            self.__dict__["direction"] = "forward"  # frozen, and still being made
        if traits.measured and self.direction != "forward":
            raise ConfigError(
                f"direction: got {self.direction!r}; a profile is measured of outputs, and nothing "
                "is known of gradients. Leave direction out."
            )
        if format and self.direction != "forward" and self.point == "output":
            raise ConfigError(
                f"direction: got {self.direction!r} for the number format {self.error} at the "
                "output; a gradient's product has its operands in a format: the one that comes "
                "back with point: input, the weight with point: weight. Or leave direction out."
            )
        self._check_gradients()
        if traits.blend and self.scale > 1:
            word = "a number format" if format else self.error
            raise ConfigError(
                f"scale: got {self.scale:g}; of {word} it is from 0 (clean) to 1 "
                f"({self.error} itself)."
            )
        return self

    def _check_gradients(self) -> None:
        """What a format's rule says of gradients has to have one to speak of."""
        backward = self.direction != "forward"
        if self.gradient_rounding == "stochastic" and not (backward and self.point == "input"):
            raise ConfigError(
                "gradient_rounding: got 'stochastic' with point: "
                f"{self.point} and direction: {self.direction}; it is of the gradient that comes "
                "back to a layer, which a format rounds with point: input and direction: both or "
                "backward. Weights and inputs are rounded to nearest, as recipes of FP4 training "
                "have it: there an error without bias is paid for with twice the variance. Give "
                "that rule the two, or leave gradient_rounding out."
            )
        if self.ste == "clipped" and (self.point == "output" or self.direction == "backward"):
            raise ConfigError(
                f"ste: got 'clipped' with point: {self.point} and direction: {self.direction}; it "
                "is of an input or a weight that the forward pass rounds. Give point: input or "
                "weight and direction: forward or both, or leave ste out."
            )
        if self.phase == "rollout":
            for key in ("ste", "gradient_rounding"):
                value = getattr(self, key)
                if value != type(self).model_fields[key].default:
                    raise ConfigError(
                        f"{key}: got {value!r} with phase: rollout, in which nothing is sent "
                        f"back. Give phase: train or both, or leave {key} out."
                    )

    def _check_profile(self) -> None:
        if self.path is None:
            raise ConfigError(
                "path: got none; profile needs it: a .profile file, as `hetero-noise profile fit` "
                "makes one, or the name of one that comes with the package."
            )
        if self.point != "output":
            raise ConfigError(
                f"point: got {self.point!r}; a profile is measured of outputs. Leave point out."
            )
        self.__dict__["path"] = settled_path(self.path)
        if self.digest is None:
            self.__dict__["digest"] = load_profile(self.path).digest

    @property
    def word(self) -> str:
        """Its error model with its options, as `hetero_plugin.errors.error_model` takes it."""
        made = self.format_options
        return self.error if made is None else made.word(self.error, self.point)

    def word_of(self, stream: str) -> str:
        """`word` at a stream of the backward pass, or of the forward pass."""
        if stream == "grad_output" and self.gradient_rounding == "stochastic":
            return f"{self.word}|stochastic"
        return self.word

    @property
    def format_options(self) -> FormatOptions | None:
        """The options of a number format, its defaults where none are given; None: it has none."""
        kind = OPTIONS.get(self.error)
        if kind is None or not issubclass(kind, FormatOptions):
            return None
        return self.options if isinstance(self.options, kind) else kind()

    @field_validator("options", mode="before")
    @classmethod
    def _right_options(cls, value: Any, info: ValidationInfo) -> Any:
        error = info.data.get("error")
        if value is None or error is None:
            return value
        if error not in OPTIONS:
            raise ConfigError(
                f"given for the error model {error!r}, which has none; they belong to "
                f"{', '.join(OPTIONS)}."
            )
        if isinstance(value, dict):
            return OPTIONS[error](**value)
        if not isinstance(value, OPTIONS[error]):
            raise ConfigError(f"got {shown(value)}; it should be a mapping, of {error}'s options.")
        return value

    def _check_options(self) -> None:
        made = self.format_options
        if made is not None:
            made.check(self.error, self.point)
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
        return numbers_of(self.layers)
