"""Operators are run and written, one after another.

T rows, N outputs of a row, C of them kept, R repetitions.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.profile.header import Header, SiteEntry, TensorShape, tensors_sha256
from hetero_plugin.profile.operators import Operator, Variant
from hetero_plugin.profile.recording import RecordingWriter, SiteRecord

__all__ = ["check_space", "expected_bytes", "run_operator", "written"]


def run_operator(
    operator: Operator,
    inputs: Mapping[str, Tensor],
    repeats: int,
    *,
    changed: Operator | None = None,
    reference: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> SiteRecord:
    """Runs one operator and its float64 reference.

    Args:
        operator: as the engine has it.
        inputs: on the CPU, T rows each.
        repeats: R.
        changed: what is run in its place; its reference and columns are the operator's.
        reference: float64 [T, C], if it is known already.
        device: that the operator is on.
    """
    given = {name: tensor.to(device) for name, tensor in inputs.items()}
    run = (changed or operator).run
    kept = operator.columns
    outputs = []
    for _ in range(repeats):
        y = run(given)
        outputs.append(y[:, kept.to(y.device)].cpu())
    rows = y.double().pow(2).mean(dim=-1).sqrt().cpu()
    if reference is None and operator.reference is not None:
        reference = operator.reference(given).cpu()
    entry = SiteEntry(
        name=operator.name,
        kind=operator.kind,
        layer=operator.layer,
        k=operator.k,
        n=operator.n,
        rows=len(rows),
        columns=len(kept),
        columns_sha256=tensors_sha256({"columns": kept}),
        inputs={name: TensorShape.of(tensor) for name, tensor in inputs.items()},
        inputs_sha256=tensors_sha256(inputs),
        extra=dict(operator.extra),
    )
    weight = operator.weight if operator.kind == "norm" else None
    return SiteRecord(entry, kept, torch.stack(outputs), reference, rows, dict(inputs), weight)


def expected_bytes(
    operators: Iterable[Operator],
    inputs: Mapping[str, Mapping[str, Tensor]],
    repeats: int,
    held: bool,
) -> int:
    """Of the tensors of a recording, whose files are a little larger.

    Args:
        operators: that are recorded.
        inputs: name -> the operator's inputs.
        repeats: R.
        held: whether the inputs are in the file.
    """
    total, seen = 0, set()
    for operator in operators:
        given = inputs[operator.name]
        first = next(iter(given.values()))
        rows, kept = len(first), len(operator.columns)
        total += rows * kept * (repeats * first.element_size() + 8) + 8 * (rows + kept)
        for tensor in given.values() if held else ():
            mark = (tensors_sha256({"x": tensor}), tensor.nbytes)
            if mark not in seen:
                seen.add(mark)
                total += tensor.nbytes
    return total


def written(
    writer: RecordingWriter,
    operators: Sequence[Operator],
    inputs: Callable[[str], Mapping[str, Tensor]],
    how: Variant,
    *,
    held: bool,
    references: Callable[[str], Tensor | None] = lambda name: None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Header:
    """Records operators that are not there yet, and finishes the file.

    Args:
        writer: of the file.
        operators: in the order of the forward pass.
        inputs: name -> the operator's inputs.
        how: the machine that this one is made to be; its settings are in force already.
        held: whether the inputs go into the file.
        references: name -> the operator's reference, if it is known already.
        device: that the operators are on.
        progress: called with the number of operators that are there, and of all.
    """
    first = {entry.inputs_sha256: entry.name for entry in reversed(writer.header.sites)}
    with torch.no_grad():
        for done, operator in enumerate(operators):
            progress(done, len(operators))
            if writer.has(operator.name):
                continue
            one = run_operator(
                operator,
                inputs(operator.name),
                writer.header.repeats,
                changed=how.change(operator),
                reference=references(operator.name),
                device=device,
            )
            writer.add(_kept(one, first if held else None))
    progress(len(operators), len(operators))
    writer.close()
    return writer.header


def _kept(record: SiteRecord, first: dict[str, str] | None) -> SiteRecord:
    """A record with its inputs, those of the first site that has them, or none."""
    if first is None:
        return replace(record, inputs={})
    owner = first.setdefault(record.entry.inputs_sha256, record.entry.name)
    if owner == record.entry.name:
        return record
    return replace(record, inputs={}, entry=record.entry.replace(inputs_of=owner))


def check_space(out: Path, size: int) -> None:
    """That a recording of a size fits on the disk.

    Raises:
        ConfigError: it does not.
    """
    free = shutil.disk_usage(out.parent).free
    if 2 * size > free:  # the parts, and the file that they are packed into
        raise ConfigError(
            f"--out {out}: needs {2 * size / 1e6:,.0f} MB while it is made, and {free / 1e6:,.0f} "
            "MB are free; record fewer --layers, --rows or --columns"
        )
