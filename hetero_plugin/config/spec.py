"""What the user asked for: NoiseConfig, its rules, presets, parsing, precedence."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from hetero_plugin.config import multipliers, profile
from hetero_plugin.config.aqn import AQNConfig
from hetero_plugin.config.base import Frozen, Seed, plain, table_number, whole_step
from hetero_plugin.config.options import refuse_misplaced
from hetero_plugin.config.problems import ConfigError, did_you_mean, shown
from hetero_plugin.config.read import check_size, read_json, read_yaml
from hetero_plugin.config.rule import NoiseRule

__all__ = [
    "DEFAULT_PRESET",
    "ENVIRONMENT",
    "METHOD",
    "PRESETS",
    "AQNConfig",
    "ConfigError",
    "NoiseConfig",
    "NoiseRule",
    "preset",
    "resolve",
    "table_number",
    "whole_step",
]

logger = logging.getLogger(__name__)

METHOD = "hetero_noise"
"""The name that engines know this package by: quantization method, key, environment."""
ENVIRONMENT = "HETERO_NOISE_CONFIG"
"""Environment variable with a specification as JSON, a path, or the name of a preset."""

DEFAULT_PRESET = "qerl-fp4"
"""What a noisy engine means when no specification is given."""


def _formatted(error: str, *points: str) -> dict[str, Any]:
    scope = {"targets": ["linear"], "exclude": ["lm_head"]}
    return {"rules": [{**scope, "error": error, "scale": 1.0, "point": at} for at in points]}


def _profiled(name: str) -> dict[str, Any]:
    rule = {"targets": ["linear"], "exclude": ["lm_head"], "error": "profile", "path": name}
    return {"rules": [rule]}


# The experiments' scopes. Their common size is 5e-2, where error is seen to cost accuracy.
PRESETS: dict[str, dict[str, Any]] = {
    "rmsnorm": {"targets": ["norm"], "scale": 5e-2},
    # In a layer with experts, theirs and the shared expert's: *.mlp.experts.down_proj.
    "mlp": {"targets": ["norm", "*.mlp.*down_proj"], "scale": 5e-2},
    "linear": {"targets": ["linear"], "scale": 5e-2},
    "all": {"targets": ["linear", "norm"], "scale": 5e-2},
    "all-ops": {"targets": ["linear", "norm", "activation", "attention"], "scale": 5e-2},
    DEFAULT_PRESET: {"targets": ["linear"], "exclude": ["lm_head"], "scale": 5e-2},
    # Number formats at what the linear layers' products read: w the weights, a the activations.
    "nvfp4-w4a16": _formatted("nvfp4", "weight"),
    "nvfp4-w4a4": _formatted("nvfp4", "weight", "input"),
    "mxfp4-w4a4": _formatted("mxfp4", "weight", "input"),
    "hif4-w4a4": _formatted("hif4", "weight", "input"),
    "mxfp8-w8a8": _formatted("mxfp8_e4m3", "weight", "input"),
    "fp8-w8a8": _formatted("fp8_e4m3", "weight", "input"),
    "int8-w8a8": _formatted("int8", "weight", "input"),
    "int4-w4a16-g128": _formatted("int4", "weight"),
    # The measured profiles that come with the package: as far apart as two correct bfloat16 GEMMs,
    # and as two generations of matrix units.
    "bf16-kernel-floor": _profiled("bf16-kernel-floor"),
    "hopper-vs-ampere": _profiled("hopper-vs-ampere"),
}
_RULE_KEYS = tuple(NoiseRule.model_fields)
_LATER = ("ste", "gradient_rounding")
"""Keys of a rule that specifications from before do not have: only where they say something."""


def _check_preset(name: Any) -> dict[str, Any]:
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(
            f"preset: got {shown(name)}, which is not a preset.{did_you_mean(name, PRESETS)} "
            f"There are: {', '.join(PRESETS)}."
        )
    return dict(PRESETS[name])


class NoiseConfig(Frozen):
    """A specification: a seed, a policy of resampling and an ordered list of rules.

    One rule may be written flat: ``NoiseConfig(scale=5e-2, targets=["linear"])``. A scale
    without targets means the sites of the preset ``qerl-fp4``. ``preset`` names a preset, and
    flat keys beside it change that preset's rule.

    Example::

        NoiseConfig(preset="all", scale=1e-2, layers=["0-13"], seed=7)

    Raises:
        ConfigError: see NoiseRule; also keys that contradict each other, and a specification
            that would do nothing.
    """

    seed: Seed = 0
    """two runs with one seed have the same error"""
    resample: Literal["step", "never", "call"] = "step"
    """drawn anew at each training step; never (fixed hardware); at every call"""
    rules: tuple[NoiseRule, ...] = ()
    """in order; a site may be hit by several"""
    aqn: AQNConfig | None = None
    """noise on RMSNorm weights"""
    unmapped: Literal["error", "warn"] = "error"
    """operators of the loaded model that its family's map does not have"""
    partial: bool = False
    """tensor parallel: error on each rank's partial sum instead of once on the whole"""

    def __init__(self, /, **data: Any) -> None:
        # Declared so that type checkers allow the flat keys and ``preset``.
        super().__init__(**data)

    @classmethod
    def known_keys(cls) -> Iterable[str]:
        """The fields, and what may be written instead of ``rules``."""
        return (*cls.model_fields, "preset", *_RULE_KEYS)

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        refuse_misplaced(data, cls.known_keys())
        data = dict(data)
        flat = {key: data.pop(key) for key in _RULE_KEYS if key in data}
        name = data.pop("preset", None)
        if data.get("rules") is not None:
            beside = [*(["preset"] if name is not None else []), *flat]
            if beside:
                raise ConfigError(
                    f"rules and {', '.join(beside)} are both given; write the rules in full, or "
                    "one rule by its keys without rules."
                )
            return data
        if name is not None:
            # What is written beside a preset changes each of its rules.
            found = _check_preset(name)
            data["rules"] = [NoiseRule(**{**rule, **flat}) for rule in found.pop("rules", [found])]
            return data
        elif flat:
            if "targets" not in flat and "exclude" not in flat:
                scope = PRESETS[DEFAULT_PRESET]
                flat = {"targets": scope["targets"], "exclude": scope["exclude"], **flat}
        elif data.get("aqn") is not None:
            raise ConfigError(
                "aqn is given without rules; say which you mean: rules: [] for AQN alone, or "
                f"preset: {DEFAULT_PRESET} (or other rules) for error in the operators too."
            )
        else:
            flat = _check_preset(DEFAULT_PRESET)
            logger.warning("no noise specified: using the preset %s: %s", DEFAULT_PRESET, flat)
        data["rules"] = [NoiseRule(**flat)]
        return data

    @model_validator(mode="after")
    def _check_some(self) -> NoiseConfig:
        if not self.rules and self.aqn is None:
            raise ConfigError(
                "rules: got none, and no aqn; this would be a clean run. For a clean model leave "
                "the plugin out, or give a rule with scale: 0."
            )
        return self

    @property
    def canonical(self) -> str:
        """The specification as JSON in one form: what means the same is written the same."""
        data = self.model_dump(mode="json")
        for rule, written in zip(self.rules, data["rules"], strict=True):
            written["targets"] = sorted(set(rule.targets))
            written["exclude"] = sorted(set(rule.exclude))
            layers = rule.layer_set()
            written["layers"] = None if layers is None else sorted(layers)
            if rule.options is None:  # as before there were any
                del written["options"]
            elif written["options"].get("share", "") is None:  # as before there was this one
                del written["options"]["share"]
            if rule.path is None:
                del written["path"], written["digest"]
            for key in _LATER:
                if written[key] == NoiseRule.model_fields[key].default:
                    del written[key]
        if self.aqn is not None:
            data["aqn"]["targets"] = sorted(set(self.aqn.targets))
            chosen = self.aqn.layer_set()
            data["aqn"]["layers"] = None if chosen is None else sorted(chosen)
            for key in ("layers", "multipliers"):
                if data["aqn"][key] is None:  # specifications from before keep their fingerprint
                    del data["aqn"][key]
        return json.dumps(data, sort_keys=True, separators=(",", ":"))

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of ``canonical``: equal for equal meaning.

        Of a profile the digest counts, and not the path of its file.
        """
        text = self.canonical
        if any(rule.path is not None for rule in self.rules):
            data = json.loads(text)
            for rule in data["rules"]:
                rule.pop("path", None)
            text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def parse(cls, value: Any, where: str | None = None) -> NoiseConfig:
        """A specification from whatever form it came in.

        Args:
            value: NoiseConfig, mapping, name of a preset, JSON text, path of a .json, .yaml or
                .yml file, or None for the preset ``qerl-fp4`` (one log line says so).
            where: name of the place the value came from, for the error.

        Raises:
            ConfigError: it can't be read, or is not a valid specification.
        """
        if isinstance(value, NoiseConfig):
            return value
        places = [where] if where else []
        try:
            data, file = _written(value)
            places += [file] if file else []
            return cls(**data)
        except ConfigError as error:
            if not places:
                raise
            raise ConfigError(f"{': '.join(places)}: {error}", error.problems) from None


def preset(name: str, **changes: Any) -> NoiseConfig:
    """The preset ``name``, with ``changes`` (any key of NoiseConfig or NoiseRule).

    Raises:
        ConfigError: no such preset, or a bad change.
    """
    return NoiseConfig(preset=name, **changes)


def _written(value: Any) -> tuple[dict[str, Any], str | None]:
    """The keys of a specification as they were written, and the file that they are in, if any."""
    if value is None:
        return {}, None
    if isinstance(value, NoiseRule):
        return {"rules": (value,)}, None
    if isinstance(value, Mapping):
        check_size(value)
        return plain(value), None
    if isinstance(value, Path):
        return _of_file(value), str(value)
    if isinstance(value, str):
        text = value.strip()
        if text in PRESETS:
            return {"preset": text}, None
        if text.startswith("{"):
            return _mapping(text, "the text", "json"), None
        if Path(text).suffix in _FORMATS:
            return _of_file(Path(text)), str(Path(text))
        raise ConfigError(
            f"got {value!r}; it should be a preset ({', '.join(PRESETS)}), JSON text such as "
            f'{{"scale": 0.05}}, or the path of a .json or .yaml file.{did_you_mean(text, PRESETS)}'
        )
    raise ConfigError(
        f"got {shown(value)} ({type(value).__name__}); it should be a NoiseConfig, a mapping, the "
        "name of a preset, JSON text or a path."
    )


_FORMATS = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}


def _of_file(path: Path) -> dict[str, Any]:
    form = _FORMATS.get(path.suffix)
    if form is None:
        raise ConfigError(f"{path}: the suffix should be one of {', '.join(_FORMATS)}.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: can't be read: {why}.") from None
    keys = multipliers.beside(_mapping(text, str(path), form), path.parent)
    whole: dict[str, Any] = plain(profile.beside(keys, path.parent))  # YAML's may be numbers
    return whole


def _mapping(text: str, where: str, form: str) -> dict[str, Any]:
    try:
        data = read_json(text) if form == "json" else read_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"{where}: got {type(data).__name__}; a specification is a mapping such as "
            '{"scale": 0.05}.'
        )
    return data


def _own(quantization_config: Any) -> Any:
    """The specification inside a checkpoint's quantization_config; None if it isn't ours."""
    if not isinstance(quantization_config, Mapping):
        return quantization_config
    if quantization_config.get("quant_method", METHOD) != METHOD:
        return None
    return {k: v for k, v in quantization_config.items() if k != "quant_method"}


def _beside(additional_config: Any) -> Any:
    """The specification inside vLLM's additional_config, under the key ``hetero_noise``."""
    if not isinstance(additional_config, Mapping) or METHOD in additional_config:
        return additional_config[METHOD] if isinstance(additional_config, Mapping) else None
    misplaced = sorted(set(additional_config) & {"scale", "rules", "preset", "aqn"})
    if misplaced:
        # Other plugins' keys are theirs; these are ours, one level too high, and would be lost.
        raise ConfigError(
            f"additional_config: {', '.join(misplaced)} at its top level; a specification belongs "
            f'under the key {METHOD!r}: {{"{METHOD}": {{"scale": 0.05}}}}.'
        )
    return None


def resolve(
    *,
    argument: Any = None,
    model_config: Any = None,
    additional_config: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> NoiseConfig | None:
    """The one specification that applies, of all places where one may be given.

    Highest first: the argument, the model's own quantization_config, additional_config, the
    environment. An argument overrides the environment, and a log line says so. Any other two
    that differ in meaning (in fingerprint) are an error, since one of them would be lost.

    Args:
        argument: what was passed in code or on the command line; any form NoiseConfig.parse
            takes; None if nothing was.
        model_config: the ``quantization_config`` of the checkpoint; one with another
            ``quant_method`` is not ours and counts as nothing.
        additional_config: vLLM's additional_config as a whole; the key ``hetero_noise`` is read.
        environ: environment variables; os.environ when None.

    Returns:
        The specification, or None when none is given anywhere.

    Raises:
        ConfigError: one of them is invalid (its place is named), or two disagree (both are).
    """
    environ = os.environ if environ is None else environ
    variable = environ.get(ENVIRONMENT, "").strip() or None
    argument_place, environment_place = "the argument", f"the environment variable {ENVIRONMENT}"
    places = {
        argument_place: argument,
        "the model's quantization_config": _own(model_config),
        f'additional_config["{METHOD}"]': _beside(additional_config),
        environment_place: variable,
    }
    given = {
        place: NoiseConfig.parse(value, where=place)
        for place, value in places.items()
        if value is not None
    }
    if not given:
        return None
    first, config = next(iter(given.items()))
    for place, other in given.items():
        if other.fingerprint == config.fingerprint:
            continue
        if first == argument_place and place == environment_place:
            logger.warning(
                "%s (%s) overrides %s (%s)", first, config.canonical, place, other.canonical
            )
            continue
        raise ConfigError(
            f"two specifications disagree: {first} says {config.canonical}, {place} says "
            f"{other.canonical}. Remove one, or make them equal."
        )
    return config
