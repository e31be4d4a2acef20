"""Reads what other harnesses write of each item: right or wrong, the answer, if it was cut off.

Known are, by their content and not by their names:

* lm-eval's ``samples_*.jsonl`` (``--log_samples``): an item is a ``doc_id``;
* Inspect's logs, ``.json`` and ``.eval``: an item is a sample's ``id``;
* verl's validation dumps (``trainer.validation_data_dir``): an item is a prompt;
* this package's own results of ``eval``, at one level (``FILE.json@0.05``): an item is a question.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hetero_plugin.evaluation import records, results
from hetero_plugin.evaluation.records import ResultError

_INSPECT_VALUES = {"C": 1, "I": 0, "P": 0, "N": 0}  # partly right is not right
_FULL = 1.0


@dataclass(frozen=True)
class Item:
    """One answer. ``content`` is what an item of the same id must have in another run too."""

    right: int
    text: str | None = None
    cut: bool | None = None
    content: str | None = None


@dataclass(frozen=True)
class Run:
    """A run, read. ``metric`` says what ``right`` is; ``facts`` what else the file tells."""

    name: str
    kind: str
    metric: str
    items: dict[str, Item]
    facts: dict[str, Any] = field(default_factory=dict)


def read_run(
    given: str, *, metric: str | None = None, filter_name: str | None = None, first: bool = False
) -> Run:
    """Reads a run.

    Args:
        given: path of a file; of this package's results followed by ``@LEVEL``.
        metric: which of the file's metrics or scorers counts; None: its only or first binary one.
        filter_name: of lm-eval's filters; None: its only one.
        first: of several answers to an item take the first.

    Raises:
        ResultError: no such file, no known format, a metric that is not there or not binary, or
            several answers to an item without ``first``.
    """
    path, _, level = given.rpartition("@") if not Path(given).exists() else (given, "", "")
    place = Path(path or given)
    if place.is_file() and zipfile.is_zipfile(place):
        return _inspect(given, _zipped(place), metric, first)
    rows = _rows(place)
    if isinstance(rows, Mapping):
        if rows.get("format") == results.FORMAT and "levels" in rows:
            return _own(given, place, level)
        if isinstance(rows.get("samples"), list):
            return _inspect(given, rows, metric, first)
        raise ResultError(f"{place}: holds an object with {sorted(rows)[:8]}; {_EXPECTED}")
    if level:
        raise ResultError(f"{given}: @LEVEL is for this package's results alone")
    if not rows:
        raise ResultError(f"{place}: holds no items")
    if "doc_id" in rows[0]:
        return _lm_eval(given, rows, metric, filter_name, first)
    if {"input", "output", "score"} <= set(rows[0]):
        return _verl(given, rows, metric, first)
    raise ResultError(f"{place}, line 1: has the fields {sorted(rows[0])[:8]}; {_EXPECTED}")


_EXPECTED = (
    "expected lm-eval's samples_*.jsonl, an Inspect log, verl's validation dump, or results of "
    "hetero-noise eval"
)


def _rows(path: Path) -> Mapping[str, Any] | list[dict[str, Any]]:
    if path.suffix != ".jsonl":
        data, _ = records.read(path)
        if not isinstance(data, Mapping):
            raise ResultError(f"{path}: holds {type(data).__name__}; {_EXPECTED}")
        return data
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise ResultError(f"{path}: no such file") from None
    except OSError as error:
        raise ResultError(f"{path}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ResultError(f"{path}: not in UTF-8, at byte {error.start}") from None
    rows = []
    for number, text in enumerate(lines, start=1):
        if text.strip():
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ResultError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ResultError(f"{path}, line {number}: is {row!r:.60}; it should be an object")
            rows.append(row)
    return rows


def _lm_eval(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    metric: str | None,
    filter_name: str | None,
    first: bool,
) -> Run:
    filters = sorted({str(row.get("filter", "none")) for row in rows})
    if filter_name is None and len(filters) > 1:
        raise ResultError(f"{name}: has the filters {', '.join(filters)}; give one with --filter")
    wanted = filter_name or filters[0]
    rows = [row for row in rows if str(row.get("filter", "none")) == wanted]
    if not rows:
        raise ResultError(f"{name}: has no filter {wanted!r}; there are {', '.join(filters)}")
    known = rows[0].get("metrics") or [k for k, v in rows[0].items() if _binary(v)]
    chosen = _choose(name, metric, [str(k) for k in known], rows)

    def entries() -> Iterator[tuple[str, Item]]:
        for row in rows:
            responses = row.get("resps")
            while isinstance(responses, list) and responses:
                responses = responses[0]
            text = responses if isinstance(responses, str) else None
            content = str(row.get("doc_hash") or json.dumps(row.get("doc"), sort_keys=True))
            yield str(row["doc_id"]), Item(_outcome(name, row, chosen), text, None, content)

    facts = {"filter": wanted}
    return Run(name, "lm-eval", chosen, _collect(name, entries(), first), facts)


def _verl(name: str, rows: Sequence[Mapping[str, Any]], metric: str | None, first: bool) -> Run:
    chosen = metric or ("acc" if "acc" in rows[0] else "score")

    def entries() -> Iterator[tuple[str, Item]]:
        for row in rows:
            right = int(_number(name, row, chosen) >= _FULL)
            yield str(row.get("input")), Item(right, str(row.get("output", "")), None, None)

    facts = {"step": rows[0].get("step")}
    return Run(name, "verl", chosen, _collect(name, entries(), first), facts)


def _inspect(name: str, log: Mapping[str, Any], metric: str | None, first: bool) -> Run:
    samples = [s for s in log["samples"] if isinstance(s, Mapping)]
    scored = [s for s in samples if isinstance(s.get("scores"), Mapping) and s["scores"]]
    if not scored:
        raise ResultError(f"{name}: none of its {len(samples)} samples has scores")
    chosen = metric or str(next(iter(scored[0]["scores"])))

    def entries() -> Iterator[tuple[str, Item]]:
        for sample in samples:
            score = (sample.get("scores") or {}).get(chosen)
            if not isinstance(score, Mapping):
                raise ResultError(
                    f"{name}: sample {sample.get('id')!r} has no score of {chosen!r}; there are "
                    f"{sorted(sample.get('scores') or {})}"
                )
            value = score.get("value")
            if isinstance(value, str) and value in _INSPECT_VALUES:
                right = _INSPECT_VALUES[value]
            else:
                right = int(_number(name, {chosen: value}, chosen) >= _FULL)
            output = sample.get("output") or {}
            choices = output.get("choices") or [{}]
            cut = choices[0].get("stop_reason")
            content = json.dumps([sample.get("input"), sample.get("target")], sort_keys=True)
            yield (
                str(sample.get("id")),
                Item(right, _said(output, choices[0]), None if cut is None else
                     cut in ("max_tokens", "model_length"), content),
            )  # fmt: skip

    about = log.get("eval") or {}
    facts = {"task": about.get("task"), "model": about.get("model")}
    return Run(name, "Inspect", chosen, _collect(name, entries(), first), facts)


def _said(output: Mapping[str, Any], choice: Mapping[str, Any]) -> str | None:
    if isinstance(output.get("completion"), str):
        return str(output["completion"])
    content = (choice.get("message") or {}).get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else None


def _zipped(path: Path) -> dict[str, Any]:
    """An ``.eval`` file: a zip archive with a header and a file a sample."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.startswith("samples/"))
            header = json.loads(archive.read("header.json"))
            return {**header, "samples": [json.loads(archive.read(name)) for name in names]}
    except (KeyError, ValueError, NotImplementedError, OSError, zipfile.BadZipFile) as error:
        raise ResultError(
            f"{path}: can't be read as an Inspect log ({error}); make JSON of it with "
            "inspect log convert --to json"
        ) from None


def _own(name: str, path: Path, level: str) -> Run:
    document = results.load(path)
    levels = [row["level"] for row in document["levels"]]
    try:
        row = results.level_row(document, float(level))
    except ValueError:
        row = None
    if row is None:
        raise ResultError(f"{name}: say which level, as {path}@LEVEL; there are {levels}")
    n = len(row["outcomes"])
    texts = row.get("texts") or [None] * n
    cuts = row.get("truncated") or [None] * n
    header = document["header"]
    content = str(header.get("task_sha256"))
    items = {
        str(i): Item(right, text, None if cut is None else bool(cut), content)
        for i, (right, text, cut) in enumerate(zip(row["outcomes"], texts, cuts, strict=True))
    }
    facts = {key: header[key] for key in results.COMPARED if key in header}
    problems = results.problems(document)
    facts["attestation"] = "; ".join(problems) if problems else "passed"
    return Run(name, "hetero-noise", str(header.get("scorer") or "right"), items, facts)


def _collect(name: str, entries: Iterator[tuple[str, Item]], first: bool) -> dict[str, Item]:
    items: dict[str, Item] = {}
    for key, item in entries:
        if key not in items:
            items[key] = item
        elif not first:
            raise ResultError(
                f"{name}: has several answers to the item {key[:60]!r}; --first takes the first "
                "of each"
            )
    return items


def _choose(
    name: str, metric: str | None, known: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> str:
    """The metric that is asked for, or the first that is 0 or 1 of every item."""
    if metric is not None:
        if metric not in rows[0]:
            raise ResultError(f"{name}: has no metric {metric!r}; there are {', '.join(known)}")
        return metric
    for key in known:
        if all(_binary(row.get(key)) for row in rows):
            return key
    raise ResultError(f"{name}: none of its metrics ({', '.join(known)}) is 0 or 1 of every item")


def _binary(value: Any) -> bool:
    return isinstance(value, bool | int | float) and value in (0, 1)


def _outcome(name: str, row: Mapping[str, Any], metric: str) -> int:
    value = row.get(metric)
    if not _binary(value):
        raise ResultError(
            f"{name}: {metric!r} of item {row['doc_id']} is {value!r:.40}; right is 1, wrong 0"
        )
    return int(value or 0)


def _number(name: str, row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    if isinstance(value, bool | int | float):
        return float(value)
    raise ResultError(f"{name}: {key!r} is {value!r:.40}; it should be a number")
