"""Two machines' dumps become two recordings, of the operators that both have.

T rows, K inputs and N outputs of a row, C of them kept.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.profile.header import (
    Header,
    ModelSource,
    SiteEntry,
    TensorShape,
    TextSource,
    tensors_sha256,
)
from hetero_plugin.profile.imports.read import Dump, Dumped, read
from hetero_plugin.profile.operators import chosen_columns
from hetero_plugin.profile.recording import RecordingWriter, SiteRecord

__all__ = ["imported"]

_LAYER = ".layers."
_UNKNOWN = "unknown"
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def imported(
    a: Path,
    b: Path,
    out_a: Path,
    out_b: Path,
    *,
    columns: int = 128,
    accumulated: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Header, Header]:
    """Makes a recording of each of two dumps. There is no float64 reference in them.

    Args:
        a, b: of two machines; see `read.read`.
        out_a, out_b: the recordings.
        columns: of a site that are kept at most.
        accumulated: keep operators that read other numbers on the two machines too: their
            difference is then that of everything before them as well.
        say: given sentences about what is left out.
        progress: called with the number of operators that are done, and of all.

    Returns:
        The headers of both.

    Raises:
        ConfigError: a dump can't be read, or nothing is left that can be compared.
    """
    dumps = (read(a), read(b))
    names = [name for name in dumps[0].operators if name in dumps[1].operators]
    for one, other in (dumps, dumps[::-1]):
        lacking = len(one.operators) - len(names)
        if lacking:
            say(f"{lacking} operators of {one.path} are not in {other.path}")
    if not names:
        raise ConfigError(f"{a} and {b}: have no operator of the same name")
    dtype = _dtype(dumps[0], names)
    for out in (out_a, out_b):  # a dump may have changed since: an import begins anew
        shutil.rmtree(f"{out}.part", ignore_errors=True)
    writers = [
        RecordingWriter(out, _header(dump, dtype, columns, accumulated))
        for out, dump in zip((out_a, out_b), dumps, strict=True)
    ]
    left_out: dict[str, list[str]] = {}
    for done, name in enumerate(names):
        progress(done, len(names))
        pair = [dump.operators[name] for dump in dumps]
        made = _pair(pair, dtype, columns, accumulated)
        if isinstance(made, str):
            left_out.setdefault(made, []).append(name)
            continue
        for writer, record in zip(writers, made, strict=True):
            writer.add(record)
    progress(len(names), len(names))
    for why, which in left_out.items():
        more = f" and {len(which) - 1} more" if len(which) > 1 else ""
        say(f"not imported: {which[0]}{more}: {why}")
    if not writers[0].header.sites:
        raise ConfigError(
            f"{a} and {b}: nothing can be compared: {'; '.join(left_out)}. With --accumulated, "
            "operators that read other numbers are kept, and their difference is that of "
            "everything before them too"
        )
    for writer in writers:
        writer.close()
    return writers[0].header, writers[1].header


def _dtype(dump: Dump, names: list[str]) -> torch.dtype:
    """The dtype that most outputs have."""
    found = Counter(dump.operators[name].output().dtype for name in names)
    return found.most_common(1)[0][0]


def _header(dump: Dump, dtype: torch.dtype, columns: int, accumulated: bool) -> Header:
    return Header(
        model=ModelSource(name=_UNKNOWN, config_sha256=_UNKNOWN, weights_sha256=_UNKNOWN),
        text=TextSource(name=_UNKNOWN, sha256=_UNKNOWN),
        tokens=(),
        positions=(),
        sequences=(),
        dtype=str(dtype).removeprefix("torch."),
        engine="imported",
        variant="accumulated" if accumulated else "plain",
        machine={"device": _UNKNOWN, "tool": dump.tool, "dump": dump.path.name},
        repeats=1,
        columns=columns,
    )


def _pair(
    pair: list[Dumped], dtype: torch.dtype, columns: int, accumulated: bool
) -> list[SiteRecord] | str:
    """Both machines' records of an operator, or why there are none."""
    outputs = [one.output() for one in pair]
    inputs = [None if one.input is None else one.input() for one in pair]
    if any(y.dtype != dtype or y.dtype not in _DTYPES for y in outputs):
        return f"its output is no {str(dtype).removeprefix('torch.')}, as most are"
    if outputs[0].shape != outputs[1].shape or not outputs[0].numel():
        return "its output has other sizes on the two machines, or none"
    known = all(x is not None for x in inputs)
    if pair[0].kind in ("linear", "lm_head") and not known:
        return "a linear layer needs its input, whose width is K"
    if known and not accumulated and not _same(*inputs):
        return "it reads other numbers on the two machines"
    return [
        _record(one, y, x, columns, held=not accumulated)
        for one, y, x in zip(pair, outputs, inputs, strict=True)
    ]


def _same(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _record(one: Dumped, y: Tensor, x: Tensor | None, columns: int, held: bool) -> SiteRecord:
    kept = chosen_columns(one.name, y.shape[1], columns)
    given = {} if x is None else {"x": x}
    entry = SiteEntry(
        name=one.name,
        kind=one.kind,
        layer=_layer(one.name),
        k=y.shape[1] if x is None else x.shape[1],
        n=y.shape[1],
        rows=len(y),
        columns=len(kept),
        columns_sha256=tensors_sha256({"columns": kept}),
        inputs={name: TensorShape.of(tensor) for name, tensor in given.items()},
        # Accumulated, nobody is to compare them: both machines have the hash of nothing.
        inputs_sha256=tensors_sha256(given if held else {}),
    )
    rms = y.double().pow(2).mean(dim=1).sqrt()
    return SiteRecord(entry, kept, y[None][:, :, kept], None, rms, given if held else {})


def _layer(name: str) -> int | None:
    word = name.partition(_LAYER)[2].partition(".")[0]
    return int(word) if word.isdigit() else None
