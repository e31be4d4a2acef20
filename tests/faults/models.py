"""What the faults are put into: tiny random Qwen2 models, and what to ask of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hetero_plugin import attestation
from hetero_plugin.hf.probe import HFProbe
from tests.faults.registry import Silent
from tests.hf.conftest import gradients, tiny

UP = "model.layers.1.mlp.up_proj"
IDS = torch.randint(1, 272, (3, 17), generator=torch.Generator().manual_seed(1))

__all__ = ["IDS", "UP", "attested", "gradients", "logits", "said", "tiny"]


def logits(model: Any, ids: Tensor = IDS, **kwargs: Any) -> Tensor:
    """[B, T, vocabulary] of a model in evaluation mode."""
    with torch.no_grad():
        return model(ids, **kwargs).logits


def attested(probe: HFProbe, *words: str) -> str:
    """The words with which a probe's attestation is refused.

    Raises:
        Silent: it passes, or the refusal names none of ``words``.
    """
    found = "; ".join(attestation.problems(attestation.attest(probe)))
    if not found:
        raise Silent("SILENT: the attestation passes")
    missing = [word for word in words if word not in found]
    if missing:
        raise Silent(f"SILENT: refused without saying {missing}: {found}")
    return f"REFUSED: {found}"


@contextmanager
def said() -> Iterator[list[str]]:
    """What the package logs at WARNING or above, inside."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Keep(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("hetero_noise", "hetero_plugin")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield lines
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
