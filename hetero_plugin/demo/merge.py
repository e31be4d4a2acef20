"""verl's FSDP2 checkpoint to a Hugging Face folder, in the dtype it was trained in.

verl's own merger rounds every weight to bfloat16; after a few dozen small updates in float32 that
would blur the very differences an experiment looks for.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from hetero_plugin.config import ConfigError


class CheckpointError(ConfigError):
    """A training checkpoint that is missing, incomplete, or not clean."""


def shards(checkpoint: Path) -> list[Path]:
    """The shards of an actor checkpoint, in order of rank.

    Raises:
        CheckpointError: there are none, or some are missing.
    """
    found: dict[int, Path] = {}
    sizes: set[int] = set()
    for path in checkpoint.glob("model_world_size_*_rank_*.pt"):
        match = re.fullmatch(r"model_world_size_(\d+)_rank_(\d+)\.pt", path.name)
        if match:
            sizes.add(int(match[1]))
            found[int(match[2])] = path
    if len(sizes) != 1:
        raise CheckpointError(
            f"{checkpoint}: expected the shards model_world_size_N_rank_R.pt of one world size, "
            f"found world sizes {sorted(sizes)}"
        )
    size = sizes.pop()
    missing = sorted(set(range(size)) - set(found))
    if missing:
        raise CheckpointError(f"{checkpoint}: the shards of ranks {missing} of {size} are missing")
    return [found[rank] for rank in range(size)]


def merged_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All parameters of an FSDP2 checkpoint (one-dimensional mesh), in their own dtype.

    Raises:
        CheckpointError: shards are missing, or placed in a way that is not FSDP2's.
    """
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Replicate, Shard

    # Pickled DTensors need their classes; the file was written by the training run just before.
    parts = [
        torch.load(path, map_location="cpu", weights_only=False) for path in shards(checkpoint)
    ]
    state: dict[str, torch.Tensor] = {}
    for name, first in parts[0].items():
        if not isinstance(first, DTensor):
            state[name] = first.detach().clone()
            continue
        placements = first.placements
        if len(placements) != 1 or not isinstance(placements[0], Shard | Replicate):
            raise CheckpointError(f"{checkpoint}: {name} is placed as {placements}, not by FSDP2")
        local = [part[name]._local_tensor.detach() for part in parts]
        placed = placements[0]
        whole = torch.cat(local, dim=placed.dim) if isinstance(placed, Shard) else local[0]
        state[name] = whole.clone()
    return state


def merge(checkpoint: Path, start: Path, target: Path) -> dict[str, Any]:
    """Write the trained model as a clean Hugging Face checkpoint, and check that it is one.

    Args:
        checkpoint: verl's `global_step_N/actor` folder.
        start: the checkpoint that training started from: configuration and tokenizer.
        target: folder to write.

    Returns:
        `parameters`, `dtype`, `changed` (share of weights that training changed) and
        `relative_change` (norm of the change over the norm of the start).

    Raises:
        CheckpointError: names, shapes or values are not those of a trained, clean Qwen2.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(start, dtype="auto")
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state = merged_state(checkpoint)
    _check_names(state, before, checkpoint)
    model.to(next(iter(state.values())).dtype)
    model.load_state_dict(state, strict=True)
    target.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(start).save_pretrained(target)
    check_clean(target)
    changed = total = 0
    moved = norm = 0.0
    for name, old in before.items():
        delta = state[name].double() - old.double()
        changed += int((delta != 0).sum())
        total += old.numel()
        moved += float(delta.square().sum())
        norm += float(old.double().square().sum())
    if changed == 0:
        raise CheckpointError(
            f"{checkpoint}: training changed no weight (learning rate 0, or all groups had equal "
            "rewards)"
        )
    return {
        "parameters": total,
        "dtype": str(next(iter(state.values())).dtype).removeprefix("torch."),
        "changed": changed / total,
        "relative_change": (moved / norm) ** 0.5,
    }


def _check_names(
    state: dict[str, torch.Tensor], before: dict[str, torch.Tensor], checkpoint: Path
) -> None:
    """The trained state has exactly the clean model's names and shapes, and finite values."""
    extra, missing = sorted(set(state) - set(before)), sorted(set(before) - set(state))
    if extra or missing:
        raise CheckpointError(
            f"{checkpoint} is not a clean checkpoint: extra entries {extra[:5]}, missing entries "
            f"{missing[:5]}; a wrapped model must save the clean model's names"
        )
    for name, value in state.items():
        if value.shape != before[name].shape:
            raise CheckpointError(
                f"{checkpoint}: {name} has shape {tuple(value.shape)}, expected "
                f"{tuple(before[name].shape)}"
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{checkpoint}: {name} holds values that are not finite")


def check_clean(folder: Path) -> None:
    """Refuse a Hugging Face checkpoint that carries noise or quantization settings.

    Raises:
        CheckpointError: `config.json` is missing or names a quantization.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no config.json: not a Hugging Face checkpoint")
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("quantization_config", "hetero_noise"):
        if config.get(key):
            raise CheckpointError(f"{path} is not clean: it has {key} = {config[key]}")
