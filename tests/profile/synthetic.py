"""Recordings whose difference is known, made without a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetero_plugin.errors.profile import from_ordered, ordered
from hetero_plugin.profile.recording import (
    Header,
    ModelSource,
    Recording,
    RecordingWriter,
    SiteEntry,
    SiteRecord,
    TensorShape,
    TextSource,
    tensors_sha256,
)


def header(rows: int, **changes: Any) -> Header:
    """Of one sequence of so many rows."""
    fields: dict[str, Any] = {
        "model": ModelSource(name="made up", config_sha256="c", weights_sha256="w"),
        "text": TextSource(name="text", sha256="t"),
        "tokens": tuple(range(rows)),
        "positions": tuple(range(rows)),
        "sequences": (rows,),
        "dtype": "bfloat16",
        "engine": "hf",
        "machine": {"device": "none"},
    }
    return Header(**{**fields, **changes})


def site(
    name: str,
    output: Tensor,
    reference: Tensor | None = None,
    *,
    kind: str = "linear",
    layer: int | None = 0,
    k: int = 64,
    n: int | None = None,
    columns: Tensor | None = None,
    row_rms: Tensor | None = None,
    inputs: dict[str, Tensor] | None = None,
    weight: Tensor | None = None,
    extra: dict[str, float] | None = None,
) -> SiteRecord:
    """A record of an output [R, T, C], of all columns unless they are named."""
    _, rows, kept = output.shape
    columns = torch.arange(kept) if columns is None else columns
    inputs = inputs or {}
    entry = SiteEntry(
        name=name,
        kind=kind,
        layer=layer,
        k=k,
        n=kept if n is None else n,
        rows=rows,
        columns=kept,
        columns_sha256=hashlib.sha256(columns.numpy().tobytes()).hexdigest(),
        inputs={key: TensorShape.of(value) for key, value in inputs.items()},
        inputs_sha256=tensors_sha256(inputs),
        extra=extra or {},
    )
    if row_rms is None:
        row_rms = output[0].double().square().mean(-1).sqrt()
    return SiteRecord(entry, columns, output, reference, row_rms, inputs, weight)


def recording(path: Path, sites: Sequence[SiteRecord], **changes: Any) -> Recording:
    """Written and opened again."""
    repeats, rows = sites[0].output.shape[:2]
    writer = RecordingWriter(path, header(rows, repeats=repeats, **changes))
    for one in sites:
        writer.add(one)
    writer.close()
    return Recording.open(path)


def moved(y: Tensor, ulps: Tensor) -> Tensor:
    """bfloat16 y, so many ulps away from zero."""
    return from_ordered(ordered(y) + torch.where(y < 0, -1, 1) * ulps, y.dtype)
