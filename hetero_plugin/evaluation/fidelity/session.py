"""A checkpoint loaded, wrapped and attested in Hugging Face, with a text as its fixed batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetero_plugin import attestation
from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.evaluation import checkpoints
from hetero_plugin.evaluation.fidelity.batch import FixedBatch
from hetero_plugin.evaluation.fidelity.panel import LEAST_WINDOWS
from hetero_plugin.evaluation.fidelity.text import read_windows

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        model: folder of a clean checkpoint.
        text: a UTF-8 file.
        config: the spec, of inference alone. Under ``resample: step`` a step is a draw.
        step: of the first draw.
        draws: of the noise.
        dtype: as for ``from_pretrained``.
        tokens: of the text's beginning.
        context: tokens of a window.
    """

    model: Path
    text: Path
    config: NoiseConfig
    step: int = 0
    draws: int = 1
    dtype: str = "auto"
    tokens: int = 512
    context: int = 32


@dataclass(frozen=True)
class Session:
    """What `opened` gives: the wrapped model, its batch, and what a result says of them."""

    model: nn.Module
    batch: FixedBatch
    header: dict[str, Any]
    attested: dict[str, Any]


def drawn_by_step(config: NoiseConfig) -> NoiseConfig:
    """The spec under ``resample: step``: each step is an independent draw of the same error."""
    return config.replace(resample="step")


def header_of(asked: Asked, text_sha256: str) -> dict[str, Any]:
    """What must agree for two results to be of one thing, known before the model is loaded."""
    return {
        "engine": "hf-eager",
        "model": str(asked.model),
        "model_sha256": checkpoints.weights_digest(asked.model),
        "text": str(asked.text),
        "text_sha256": text_sha256,
        "tokens": asked.tokens,
        "context": asked.context,
        "spec": json.loads(asked.config.canonical),
        "fingerprint": asked.config.fingerprint,
        "seed": asked.config.seed,
        "step": asked.step,
        "draws": asked.draws,
        "dtype": _dtype(asked),
    }


def opened(
    asked: Asked,
    progress: Progress | None = None,
    before: Callable[[dict[str, Any]], None] | None = None,
) -> Session:
    """Loads, wraps and attests.

    Args:
        asked: what to load.
        progress: called with what is being done, and how far.
        before: called with the header before the weights are loaded; it may refuse by raising.

    Raises:
        ConfigError: a bad checkpoint, or a text that can't be used.
        Refused: the noise can't be attested in this model.
    """
    checkpoints.check_clean(asked.model, asked.config)
    if asked.dtype != "auto" and not isinstance(getattr(torch, asked.dtype, None), torch.dtype):
        raise ConfigError(
            f"--dtype {asked.dtype}: it should be auto, bfloat16, float32 or another of torch's"
        )
    read = read_windows(
        asked.model,
        asked.text,
        tokens=asked.tokens,
        context=asked.context,
        least=LEAST_WINDOWS,
    )
    header = header_of(asked, read.sha256)
    if before is not None:
        before(header)

    from transformers import AutoModelForCausalLM

    from hetero_plugin.hf.probe import HFProbe

    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=asked.dtype).eval()
    record = attestation.attest(
        HFProbe.wrapping(model, asked.config),
        progress=lambda done, of: progress("attesting", done, of) if progress else None,
    )
    attestation.require(record, asked.config.fingerprint)
    if progress is not None:
        progress("clean passes", 0, 1)
    batch = FixedBatch(model, read.windows)
    if progress is not None:
        progress("clean passes", 1, 1)
    return Session(
        model, batch, header, {"attestation": record, "versions": attestation.versions()}
    )


def _dtype(asked: Asked) -> str:
    """The dtype that the model will have, as far as its config.json tells."""
    if asked.dtype != "auto":
        return asked.dtype
    own = checkpoints.config(asked.model / "config.json")
    return str(own.get("dtype") or own.get("torch_dtype") or "auto").removeprefix("torch.")
