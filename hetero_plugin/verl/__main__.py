"""``python -m hetero_plugin.verl SETTINGS.yaml --model M --train T --val V --output O``.

Runs one small verl training on CPU and merges its checkpoint; ``recipes/run_miniature.sh``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.config.read import read_yaml
from hetero_plugin.verl.checkpoint import CheckpointError, merge
from hetero_plugin.verl.launch import LaunchError, MiniatureRun, execute


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping in a YAML (or JSON) file of ``MiniatureRun`` settings, its noise parsed.

    Raises:
        ConfigError: no such file, not a mapping, or a bad specification.
    """
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ConfigError is a ValueError, as is text not in UTF-8
        raise ConfigError(f"{path}: can't be read as YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: it should be a mapping of settings, such as steps: 24")
    if values.get("noise") is not None:
        values["noise"] = NoiseConfig.parse(values["noise"], where=f"{path}: noise")
    return values


def _say(step: int, data: dict[str, Any]) -> None:
    words = [f"step {step}"]
    for label, name in (("reward", "critic/rewards/mean"), ("sigma", "hetero/sigma")):
        if name in data:
            words.append(f"{label} {float(data[name]):.4f}")
    words += [f"{name} {float(data[name]):.4f}" for name in data if name.endswith("/acc/mean@1")]
    print("  ".join(words), flush=True)


def main(words: list[str] | None = None) -> int:
    """Returns the process's exit status; errors of the user are one message, no traceback."""
    parser = argparse.ArgumentParser(prog="python -m hetero_plugin.verl", description=__doc__)
    parser.add_argument("settings", type=Path)
    for name in ("model", "train", "val", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args(words)
    try:
        run = MiniatureRun(
            **read_settings(given.settings),
            model=given.model,
            train_files=given.train,
            val_files=given.val,
            output=given.output,
        )
        execute(run, _say)
        print(f"model: {merge(run.checkpoint, run.model, run.output.absolute() / 'model')}")
    except (ConfigError, CheckpointError, LaunchError, ValidationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
