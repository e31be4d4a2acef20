"""Checkpoints of a run: that one is clean, and how far training moved it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hetero_plugin.verl.checkpoint import CheckpointError


def check_clean(folder: Path) -> dict[str, Any]:
    """The configuration of a Hugging Face checkpoint without noise or quantization settings.

    Raises:
        CheckpointError: `config.json` is missing, unreadable, or names a quantization.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} holds no config.json: not the folder of a Hugging Face checkpoint"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    for key in ("quantization_config", "hetero_noise"):
        if config.get(key):
            raise CheckpointError(f"{path} is not clean: it has {key} = {config[key]}")
    return config


def movement(start: Path, trained: Path) -> dict[str, Any]:
    """How far training moved the weights.

    Returns:
        `parameters`, `dtype`, `changed` (share of weights that differ) and `relative_change`
        (norm of the difference over the norm of the start).

    Raises:
        CheckpointError: nothing moved, so nothing was trained.
    """
    before, after = _weights(start), _weights(trained)
    changed = total = 0
    moved = norm = 0.0
    for name, old in before.items():
        delta = after[name].double() - old.double()
        changed += int((delta != 0).sum())
        total += old.numel()
        moved += float(delta.square().sum())
        norm += float(old.double().square().sum())
    if changed == 0:
        raise CheckpointError(
            f"{trained}: training changed no weight (a learning rate of 0, or equal rewards in "
            "every group)"
        )
    return {
        "parameters": total,
        "dtype": str(next(iter(after.values())).dtype).removeprefix("torch."),
        "changed": changed / total,
        "relative_change": (moved / norm) ** 0.5,
    }


def _weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found
