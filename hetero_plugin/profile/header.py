"""What a recording says of itself: the model, the text, the machine and its operators.

T rows (tokens) of one pass, C columns of a site's outputs that are kept, R repetitions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.config.base import Frozen

__all__ = [
    "Header",
    "ModelSource",
    "SiteEntry",
    "TensorShape",
    "TextSource",
    "parse_header",
    "settings",
    "tensors_sha256",
]

FORMAT, VERSION = "hetero-noise recording", 1


class TensorShape(Frozen):
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    """Sizes, slowest first."""
    dtype: str
    """As torch calls it, without ``torch.``."""

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """Those of a tensor."""
        return cls(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


class SiteEntry(Frozen):
    """What the header says of one operator."""

    name: str
    """Canonical name of the site."""
    kind: str
    """linear, lm_head, norm, activation, attention."""
    layer: int | None
    """Index of the decoder layer; null outside of them."""
    k: int
    """Inputs of a row."""
    n: int
    """Outputs of a row."""
    rows: int
    """T."""
    columns: int
    """C: outputs of a row that are kept."""
    columns_sha256: str
    """Of the kept columns' indices."""
    inputs: dict[str, TensorShape]
    """Name of each input -> its shape and dtype, whether or not this file holds it."""
    inputs_sha256: str
    """Of the inputs: their names, dtypes, shapes and bytes."""
    inputs_of: str | None = None
    """The site whose file holds the inputs, if this one's does not: q, k and v read one tensor."""
    extra: dict[str, float] = Field(default_factory=dict)
    """Numbers of the operator, such as ``eps`` of a norm."""


class ModelSource(Frozen):
    """Which checkpoint was run."""

    name: str
    """Its folder's name."""
    config_sha256: str
    """Of config.json."""
    weights_sha256: str
    """Of the weight files."""


class TextSource(Frozen):
    """Which text was read."""

    name: str
    """Its file's name."""
    sha256: str
    """Of the whole file."""


class Header(Frozen):
    """What a recording is of."""

    format: Literal["hetero-noise recording"] = "hetero-noise recording"
    """What sort of file it is."""
    version: Literal[1] = 1
    """Of the format."""
    model: ModelSource
    """The checkpoint."""
    text: TextSource
    """The text."""
    tokens: tuple[int, ...]
    """Token ids of all rows."""
    positions: tuple[int, ...]
    """Position of each row in its sequence."""
    sequences: tuple[int, ...]
    """Rows of each sequence; their sum is T."""
    dtype: str
    """Of the model's weights and activations."""
    engine: Literal["hf", "vllm", "imported"]
    """What ran the operators."""
    variant: str = "plain"
    """What the machine was made to do."""
    machine: dict[str, str]
    """Device, driver, library and engine versions, and the flags of kernels."""
    repeats: int = Field(default=3, ge=1)
    """R: times that each operator was run."""
    columns: int = Field(default=128, ge=1)
    """Columns that are kept of a site at most."""
    sites: tuple[SiteEntry, ...] = ()
    """In the order of the forward pass."""
    replay_of: str | None = None
    """Digest of the header of the recording whose inputs were used."""
    bytes: int = 0
    """Of all sites' files."""

    @property
    def digest(self) -> str:
        """SHA-256 of the header's canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def as_json(self) -> str:
        """The text of header.json."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over tensors by name: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def parse_header(path: Path, text: str | bytes) -> Header:
    """The header in a file's header.json.

    Args:
        path: of the recording, for the words of errors.
        text: of header.json.

    Raises:
        ConfigError: it is none, or of another version of the format.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: its header.json is no JSON: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ConfigError(f"{path}: not a recording of `hetero-noise profile record`")
    if data.get("version") != VERSION:
        raise ConfigError(
            f"{path}: version {data.get('version')!r} of the format; this program reads version "
            f"{VERSION}: record again, with this program on both machines"
        )
    try:
        return Header(**data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def settings(header: Header) -> dict[str, Any]:
    """What must not change while a recording is made, flat: ``machine.threads`` and so on."""
    flat: dict[str, Any] = {}
    for key, value in header.model_dump(mode="json", exclude={"sites", "bytes"}).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": one for name, one in value.items()}
        else:
            flat[key] = value
    return flat
