"""A checkpoint loaded, noisy and attested, in either engine, with a text as its fixed batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetero_plugin import attestation
from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.evaluation import checkpoints
from hetero_plugin.evaluation.fidelity.batch import Batch, FixedBatch, Progress
from hetero_plugin.evaluation.fidelity.panel import LEAST_WINDOWS
from hetero_plugin.evaluation.fidelity.table import HFTable, Table
from hetero_plugin.evaluation.fidelity.text import read_windows

ENGINES = ("hf", "vllm")


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
        engine: ``hf`` (eager) or ``vllm`` (compiled, in processes of its own).
    """

    model: Path
    text: Path
    config: NoiseConfig
    step: int = 0
    draws: int = 1
    dtype: str = "auto"
    tokens: int = 512
    context: int = 32
    engine: str = "hf"


@dataclass(frozen=True)
class Session:
    """What `opened` gives: a model's scale table, its batch, and what a result says of them."""

    table: Table
    batch: Batch
    header: dict[str, Any]
    attested: dict[str, Any]
    close: Callable[[], None] = lambda: None
    """Ends the engine, where it has processes of its own."""


def drawn_by_step(config: NoiseConfig) -> NoiseConfig:
    """The spec under ``resample: step``: each step is an independent draw of the same error."""
    return config.replace(resample="step")


def header_of(asked: Asked, text_sha256: str) -> dict[str, Any]:
    """What must agree for two results to be of one thing, known before the model is loaded."""
    return {
        "engine": "vllm-compiled" if asked.engine == "vllm" else "hf-eager",
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


@contextmanager
def opened(
    asked: Asked,
    progress: Progress | None = None,
    before: Callable[[dict[str, Any]], None] | None = None,
) -> Iterator[Session]:
    """Loads, makes noisy and attests; within, the model is there.

    Args:
        asked: what to load.
        progress: called with what is being done, and how far.
        before: called with the header before the weights are loaded; it may refuse by raising.

    Raises:
        ConfigError: a bad checkpoint, engine, or a text that can't be used.
        Refused: the noise can't be attested in this model.
    """
    check_engine(asked.engine)
    hf_config = checkpoints.check_clean(asked.model, asked.config)
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
    session = (_in_vllm if asked.engine == "vllm" else _in_hf)(
        asked, hf_config, read.windows, header, progress
    )
    try:
        yield session
    finally:
        session.close()


def check_engine(name: str) -> None:
    """Raises ConfigError unless it is one that there is."""
    if name not in ENGINES:
        raise ConfigError(f"--engine {name}: it should be one of {', '.join(ENGINES)}")


def _in_hf(
    asked: Asked,
    hf_config: Mapping[str, Any],
    windows: Sequence[Tensor],
    header: dict[str, Any],
    progress: Progress | None,
) -> Session:
    from transformers import AutoModelForCausalLM

    from hetero_plugin.hf.probe import HFProbe

    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=asked.dtype).eval()
    record = attestation.attest(
        HFProbe.wrapping(model, asked.config),
        progress=lambda done, of: progress("attesting", done, of) if progress else None,
    )
    attestation.require(record, asked.config.fingerprint)
    with _passing(progress):
        batch = FixedBatch(model, windows)
    return Session(HFTable(model), batch, header, _attested(record))


def _in_vllm(
    asked: Asked,
    hf_config: Mapping[str, Any],
    windows: Sequence[Tensor],
    header: dict[str, Any],
    progress: Progress | None,
) -> Session:
    from hetero_plugin.evaluation.fidelity.engine import EngineBatch, Texts

    texts = Texts(
        asked.model, hf_config, asked.config,
        dtype=asked.dtype, context=asked.context, progress=progress,
    )  # fmt: skip
    try:
        with _passing(progress):
            batch = EngineBatch(texts, windows)
    except BaseException:
        texts.close()
        raise
    return Session(texts.table, batch, header, _attested(texts.record), texts.close)


@contextmanager
def _passing(progress: Progress | None) -> Iterator[None]:
    if progress is not None:
        progress("clean passes", 0, 1)
    yield
    if progress is not None:
        progress("clean passes", 1, 1)


def _attested(record: dict[str, Any]) -> dict[str, Any]:
    return {"attestation": record, "versions": attestation.versions()}


def _dtype(asked: Asked) -> str:
    """The dtype that the model will have, as far as its config.json tells."""
    if asked.dtype != "auto":
        return asked.dtype
    own = checkpoints.config(asked.model / "config.json")
    return str(own.get("dtype") or own.get("torch_dtype") or "auto").removeprefix("torch.")
