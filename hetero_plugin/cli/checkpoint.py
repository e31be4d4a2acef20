"""The checkpoint that ``--model`` names: a folder of this machine, or a model of the hub."""

from __future__ import annotations

import re
from pathlib import Path

from hetero_plugin.config import ConfigError

__all__ = ["fetched"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Data alone: no pickled weights, and no code that a repository brings along.
_DATA = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def fetched(model: str | Path, *, weights: bool = True) -> Path:
    """Where a checkpoint lies on this machine; one of the hub is downloaded into its cache.

    Args:
        model: folder, path of a config.json, or the name of a model on the hub, ORGANISATION/NAME.
            What is there as a file or folder is never looked for on the hub.
        weights: False: the config.json alone is needed.

    Returns:
        The folder, the downloaded config.json where ``weights`` is False, or ``model`` as it was
        given if it is no name of the hub: whoever reads it says what is wrong.

    Raises:
        ConfigError: there is no such folder, and the hub does not give the model.
        ImportError: the package that downloads is missing; the message names the extra.
    """
    path = Path(model)
    # A name on the hub has one slash, so a folder above the missing one was meant to be there.
    if _HUB_ID.fullmatch(str(model)) is None or path.parent.is_dir():
        return path
    try:
        import huggingface_hub as hub
    except ImportError:
        raise ImportError(
            f"--model {model}: there is no such folder, and to download a model of that name "
            "takes huggingface_hub: pip install 'hetero-plugin[hf]'"
        ) from None
    try:
        if weights:
            return Path(hub.snapshot_download(str(model), allow_patterns=list(_DATA)))
        return Path(hub.hf_hub_download(str(model), "config.json"))
    except Exception as error:  # no network, no such model, not allowed: each has its own class
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"--model {model}: there is no such folder on this machine, and as the name of a model "
            f"on the Hugging Face hub it could not be downloaded ({type(error).__name__}: {said})."
        ) from None
