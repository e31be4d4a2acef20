"""A checkpoint's files, looked at before an engine starts: minutes earlier, and in a sentence.

An engine that meets a file of no bytes ends in its own processes, far from the file's name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetero_plugin.config import NoiseConfig
from hetero_plugin.config.problems import ConfigError
from hetero_plugin.evaluation import records
from hetero_plugin.sites import select, sites_from_config

_LONGEST_HEADER = 100_000_000  # that of the safetensors library


def config(path: Path) -> dict[str, Any]:
    """What a config.json holds.

    Raises:
        ResultError: it can't be read, or is no JSON.
        ConfigError: it holds no object.
    """
    data, _ = records.read(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds {type(data).__name__}; it should be an object")
    return data


def method(hf_config: Mapping[str, Any]) -> str:
    """The name of a checkpoint's own quantisation."""
    own = hf_config["quantization_config"]
    return str(own.get("quant_method")) if isinstance(own, Mapping) else f"{own!r:.40}"


def check_weights(model: Path) -> None:
    """That a checkpoint's weight files are there and whole, as far as their headers say.

    Raises:
        ConfigError: there is none, or one is a folder, unreadable, empty or cut short.
    """
    weights = sorted(model.glob("*.safetensors"))
    others = sorted(model.glob("*.bin"))
    if not weights and not others:
        raise ConfigError(f"{model}: holds no weights (*.safetensors or *.bin)")
    for path in [*weights, *others]:
        try:
            size = path.stat().st_size
            with path.open("rb") as content:
                start = content.read(8)
                length = int.from_bytes(start, "little")
                header = content.read(length) if length <= min(size, _LONGEST_HEADER) else b""
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"{path}: its weights can't be read: {reason}") from None
        if not size:
            raise ConfigError(f"{path}: its weights can't be read: the file is empty")
        if path.suffix == ".safetensors":
            _check_header(path, header, size - 8 - length)


def _check_header(path: Path, header: bytes, data: int) -> None:
    try:
        tensors = json.loads(header)
        ends = [int(t["data_offsets"][1]) for k, t in tensors.items() if k != "__metadata__"]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise ConfigError(
            f"{path}: its weights can't be read: not a safetensors file, or cut short"
        ) from None
    if max(ends, default=0) != data:
        raise ConfigError(
            f"{path}: its weights can't be read: {max(ends, default=0):,} bytes of tensors by its "
            f"header, and {data:,} in the file; it is cut short or damaged"
        )


def tokenizer(model: Path) -> Any:
    """A checkpoint's tokenizer.

    Raises:
        ConfigError: it can't be loaded; with the words of transformers.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model)
    except Exception as error:  # a file of the wrong sort ends in whatever its parser raises
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{model}: its tokenizer can't be loaded ({type(error).__name__}: {said}); a "
            "checkpoint needs tokenizer.json or what its tokenizer's class reads"
        ) from None


def check_clean(model: Path, spec: NoiseConfig) -> dict[str, Any]:
    """That a folder holds a clean checkpoint that the spec has sites in; its config.json.

    Raises:
        ConfigError: it is none, has a quantisation of its own, lacks weights, or no site is found.
    """
    path = model / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"{model}: not a Hugging Face checkpoint (no config.json); give its folder"
        )
    hf_config = config(path)
    if hf_config.get("quantization_config"):
        raise ConfigError(
            f"{path}: the checkpoint has a quantization_config of its own "
            f"({method(hf_config)}); evaluate a clean checkpoint"
        )
    check_weights(model)
    select(spec, sites_from_config(hf_config))
    return hf_config


def weights_digest(model: Path) -> str:
    """SHA-256 over the checkpoint's weight files and config.json, in order of name."""
    digest = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")) + sorted(model.glob("*.bin")):
        digest.update(path.name.encode())
        with path.open("rb") as content:
            while block := content.read(1 << 22):
                digest.update(block)
    digest.update((model / "config.json").read_bytes())
    return digest.hexdigest()
