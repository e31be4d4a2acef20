"""Operators are run and written, one after another.

T rows, N outputs of a row, C of them kept, R repetitions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.profile.header import SiteEntry, TensorShape, tensors_sha256
from hetero_plugin.profile.operators import Operator
from hetero_plugin.profile.recording import RecordingWriter, SiteRecord

__all__ = ["Kept", "check_space", "expected_bytes", "run_operator"]


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
    run, kept = (changed or operator).run, operator.columns
    outputs, rms = [], torch.empty(0)
    for number in range(repeats):
        y = run(given)
        outputs.append(y[:, kept.to(y.device)].cpu())
        if number == 0:
            rms = y.double().pow(2).mean(dim=-1).sqrt().cpu()
    if reference is None and operator.reference is not None:
        reference = operator.reference(given).cpu()
    entry = SiteEntry(
        name=operator.name,
        kind=operator.kind,
        layer=operator.layer,
        k=operator.k,
        n=operator.n,
        rows=len(rms),
        columns=len(kept),
        columns_sha256=tensors_sha256({"columns": kept}),
        inputs={name: TensorShape.of(tensor) for name, tensor in inputs.items()},
        inputs_sha256=tensors_sha256(inputs),
        extra=dict(operator.extra),
    )
    weight = operator.weight if operator.kind == "norm" else None
    return SiteRecord(entry, kept, torch.stack(outputs), reference, rms, dict(inputs), weight)


class Kept:
    """Runs operators and writes them, each tensor of inputs once.

    Args:
        writer: of the file.
        held: whether inputs go into it.
    """

    def __init__(self, writer: RecordingWriter, held: bool) -> None:
        self._writer, self._held = writer, held
        self._first = {e.inputs_sha256: e.name for e in writer.header.sites if e.inputs_of is None}

    def add(
        self,
        operator: Operator,
        changed: Operator,
        inputs: Mapping[str, Tensor],
        reference: Tensor | None,
        device: torch.device | str,
    ) -> None:
        """Records one operator; see `run_operator`.

        Raises:
            OSError: it can't be written.
        """
        made = run_operator(
            operator,
            inputs,
            self._writer.header.repeats,
            changed=changed,
            reference=reference,
            device=device,
        )
        if not self._held:
            made = replace(made, inputs={})
        else:
            owner = self._first.setdefault(made.entry.inputs_sha256, operator.name)
            if owner != operator.name:
                made = replace(made, inputs={}, entry=made.entry.replace(inputs_of=owner))
        self._writer.add(made)


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
        total += output_bytes(operator, len(first), repeats, first.element_size())
        mark = tensors_sha256(given)
        if held and mark not in seen:
            seen.add(mark)
            total += sum(tensor.nbytes for tensor in given.values())
    return total


def output_bytes(operator: Operator, rows: int, repeats: int, size: int) -> int:
    """Of what is kept of an operator without its inputs; ``size``: bytes of a number."""
    kept = len(operator.columns)
    return rows * kept * (repeats * size + 8) + 8 * (rows + kept)


def check_space(out: Path, size: int) -> None:
    """That a recording of a size fits on the disk.

    Raises:
        ConfigError: it does not.
    """
    free = shutil.disk_usage(out.absolute().parent).free
    if 2 * size > free:  # the parts, and the file that they are packed into
        raise ConfigError(
            f"--out {out}: needs {2 * size / 1e6:,.0f} MB while it is made, and {free / 1e6:,.0f} "
            "MB are free; record fewer --layers, --rows or --columns"
        )
