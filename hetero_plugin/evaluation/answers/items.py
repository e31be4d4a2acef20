"""Every answer as a row of a parquet file beside the results: for anybody's own statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hetero_plugin.evaluation import files
from hetero_plugin.evaluation.tasks import Task

Row = Mapping[str, Any]


def write(out: Path, document: Mapping[str, Any], task: Task) -> Path | None:
    """Writes the answers of a results file, whole or not at all.

    Args:
        out: the results file; the other has its name with ``.parquet``.
        document: its content.
        task: the questions.

    Returns:
        The path; None where pyarrow is not installed, as parquet is an extra.

    Raises:
        FileError: it can't be written.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        return None
    columns: dict[str, list[Any]] = {}
    for level, draw, sample, control, row in _passes(document):
        count = len(row["outcomes"])
        unknown = [None] * count
        values = {
            "level": [level] * count,
            "draw": [draw] * count,
            "sample": [sample] * count,
            "control": [control] * count,
            "question": [question.index for question in task.questions],
            "reference": [question.reference for question in task.questions],
            "right": [bool(right) for right in row["outcomes"]],
            "text": row.get("texts") or unknown,
            "tokens": row.get("tokens") or unknown,
            "truncated": [None if cut is None else bool(cut)
                          for cut in row.get("truncated") or unknown],
        }  # fmt: skip
        for rule, other in (row.get("also") or {}).items():
            values[f"right_{rule}"] = [bool(right) for right in other["outcomes"]]
        for name, found in values.items():
            columns.setdefault(name, []).extend(found)
    if not columns:
        return None
    table = pa.table(columns)
    header = document["header"]
    kept = {key: str(header.get(key)) for key in ("model", "model_sha256", "fingerprint", "task")}
    table = table.replace_schema_metadata({f"hetero_noise.{k}": v for k, v in kept.items()})
    target, partial = out.with_suffix(".parquet"), out.with_suffix(".parquet.partial")
    try:
        parquet.write_table(table, partial, compression="zstd")
        partial.replace(target)
    except OSError as error:
        raise files.FileError(f"{target}: can't be written: {files.reason(error)}") from None
    return target


def _passes(document: Mapping[str, Any]) -> Iterator[tuple[float, int, int, bool, Row]]:
    for row in document["levels"]:
        yield float(row["level"]), 0, 0, False, row
    for row in document.get("draws") or []:
        yield float(row["level"]), row["draw"], row["sample"], False, row
    if document.get("control"):
        yield 0.0, 0, 0, True, document["control"]
