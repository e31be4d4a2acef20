"""What several sub-commands share: the specification and the model, from command-line options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError, NoiseConfig, preset

__all__ = ["numbers", "read_model_config", "spec_from_options"]


def spec_from_options(
    preset_name: str | None, config: str | None, scale: float | None
) -> NoiseConfig | None:
    """The specification that --preset, --config and --scale state; None when none is given.

    Args:
        preset_name: name of a preset.
        config: path of a .json or .yaml file, or JSON text.
        scale: replaces the scale of every rule; alone it means the preset ``qerl-fp4``.

    Raises:
        ConfigError: --preset and --config together, or an invalid specification.
    """
    if preset_name is not None and config is not None:
        raise ConfigError(
            f"--preset {preset_name} and --config {config} are both given; each states a whole "
            "specification, so give one. A file can start from a preset with the key 'preset'."
        )
    if preset_name is not None:
        spec = preset(preset_name)
    elif config is not None:
        spec = NoiseConfig.parse(config, where="--config")
    else:
        return None if scale is None else NoiseConfig(scale=scale)
    if scale is None:
        return spec
    if not spec.rules:
        raise ConfigError(
            f"--scale {scale}: the specification has no rule whose scale it could be."
        )
    return spec.replace(rules=tuple(rule.replace(scale=scale) for rule in spec.rules))


def read_model_config(model: str) -> dict[str, Any]:
    """A checkpoint's config.json.

    Args:
        model: folder of a checkpoint, or path of a config.json.

    Raises:
        ConfigError: there is no such file, or it holds no JSON object.
    """
    given = Path(model)
    path = given / "config.json" if given.is_dir() else given
    if not path.is_file():
        raise ConfigError(
            f"--model {model}: there is no file {path}; it should be the folder of a Hugging Face "
            "checkpoint on this machine, or its config.json."
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # text not in UTF-8 is a ValueError
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"--model {path}: can't be read as JSON: {why}.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"--model {path}: got {type(data).__name__}; it should hold an object.")
    return data


def numbers(option: str, text: str) -> list[float]:
    """The numbers of an option such as ``--levels 0,0.05,0.10``.

    Raises:
        ConfigError: a part is no number.
    """
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError(
            f"{option} {text!r}: expected numbers with commas between, such as 0,0.05,0.10"
        ) from None
