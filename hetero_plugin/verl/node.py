"""What a run needs of the machine that it starts on: attention, memory, devices, the plugin.

Each check says what was asked, what is here, and what to install or set. None starts anything.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError

__all__ = [
    "check_attention",
    "check_devices",
    "check_disk",
    "check_memory",
    "check_plugin",
    "parameters_of",
]

_MODEL = "actor_rollout_ref.model"
_GIB = 2**30
# float32 weights, gradients, and AdamW's two moments; a checkpoint has no gradients.
_TRAINED, _SAVED = 16, 12


def check_attention(config: Any) -> None:
    """Refuses an attention implementation that is not installed.

    Args:
        config: verl's configuration.

    Raises:
        ConfigError: the actor would load with flash-attention, which is not here.
    """
    override = config.actor_rollout_ref.model.get("override_config") or {}
    asked = override.get("attn_implementation", "flash_attention_2")  # verl's own default
    # transformers takes FlashAttention from its package, or from the hub by `kernels`.
    there = find_spec("flash_attn") is not None or find_spec("kernels") is not None
    if asked != "flash_attention_2" or there:
        return
    raise ConfigError(
        f"{_MODEL}.override_config.attn_implementation is flash_attention_2"
        f"{'' if 'attn_implementation' in override else ', which verl sets by itself'}, and "
        "flash-attn is not installed. Install it (pip install flash-attn --no-build-isolation), or "
        f"set +{_MODEL}.override_config.attn_implementation=sdpa and "
        f"{_MODEL}.use_remove_padding=False."
    )


def check_plugin() -> None:
    """Refuses an environment in which verl's processes would not load this package.

    Raises:
        ConfigError: verl is missing, or the entry point is.
    """
    if find_spec("verl") is None:
        raise ConfigError("verl is not installed here: pip install 'hetero-plugin[vllm,verl]'.")
    for group in ("verl.plugins", "vllm.general_plugins"):
        if not any(point.name == "hetero_noise" for point in entry_points(group=group)):
            raise ConfigError(
                f"the entry point hetero_noise of {group} is missing, so that engines would not "
                "load this package and run clean. Install it: pip install hetero-plugin, not a "
                "folder on PYTHONPATH alone."
            )


def check_devices(gpus: int) -> None:
    """Refuses a machine with fewer GPUs than a run needs.

    Raises:
        ConfigError: how many there are.
    """
    import torch

    found = torch.cuda.device_count()
    if found < gpus:
        raise ConfigError(
            f"the run needs {gpus} GPUs here and this machine has {found}. Start it where they "
            "are, with the line that `hetero-noise study dry-run` prints, or choose another place "
            "with --where."
        )


def parameters_of(shape: Mapping[str, Any] | None) -> int | None:
    """Parameters of a decoder from its config.json, norms and biases left out; None: not known."""
    if shape is None:
        return None
    try:
        hidden, layers = int(shape["hidden_size"]), int(shape["num_hidden_layers"])
        heads, inner = int(shape["num_attention_heads"]), int(shape["intermediate_size"])
        vocabulary = int(shape["vocab_size"])
    except (KeyError, TypeError, ValueError):
        return None
    size = int(shape.get("head_dim") or hidden // heads)
    attention = 2 * hidden * size * (heads + int(shape.get("num_key_value_heads", heads)))
    embeddings = vocabulary * hidden * (1 if shape.get("tie_word_embeddings") else 2)
    return layers * (attention + 3 * hidden * inner) + embeddings


def check_memory(config: Any, parameters: int | None, gpus: int, device: float | None) -> str:
    """What a run's weights take of each GPU, in words.

    Args:
        config: verl's configuration.
        parameters: of the model; None: not known.
        gpus: that training is sharded over.
        device: memory of one GPU in bytes; None: not known, nothing is refused.

    Raises:
        ConfigError: it can't fit, activations and caches aside.
    """
    rollout = config.actor_rollout_ref.rollout
    share, parallel = float(rollout.gpu_memory_utilization), int(rollout.tensor_model_parallel_size)
    if not 0 < share <= 1:
        raise ConfigError(
            f"actor_rollout_ref.rollout.gpu_memory_utilization={share:g}: it is a share of a GPU's "
            "memory, above 0 and at most 1."
        )
    if parameters is None:
        return "not known: the model's shape is not in the study (model.config)"
    trained, served = _TRAINED * parameters / gpus, 2 * parameters / parallel
    words = (
        f"{trained / _GIB:.1f} GiB a GPU for weights, gradients and optimizer while training, "
        f"{served / _GIB:.1f} GiB for the rollout's weights, before activations and caches"
    )
    if device is not None and (trained >= device or served >= share * device):
        raise ConfigError(
            f"memory: {words}; a GPU here has {device / _GIB:.0f} GiB, of which the rollout may "
            f"take {share:g}. Use more GPUs, a larger tensor_model_parallel_size, or offload "
            "(actor_rollout_ref.actor.fsdp_config.optimizer_offload=True)."
        )
    return words


def check_disk(folder: Path, parameters: int | None, checkpoints: int) -> str:
    """What a run's checkpoints take on the disk, in words.

    Args:
        folder: of the run; it need not be there yet.
        parameters: of the model; None: not known.
        checkpoints: how many are kept.

    Raises:
        ConfigError: more than is free.
    """
    if parameters is None:
        return "not known"
    need = _SAVED * parameters * checkpoints
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    words = f"{math.ceil(need / _GIB)} GiB for {checkpoints} checkpoints"
    if need > free:
        raise ConfigError(
            f"{folder}: {words}, and {free / _GIB:.0f} GiB are free. Give another folder "
            "(--set output=...), or keep fewer (evaluation.checkpoints, resume_every)."
        )
    return words
