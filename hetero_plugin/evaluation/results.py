"""The results file of an evaluation: one JSON document a checkpoint, written level by level.

``header`` says what was asked and is fixed before the first answer; ``sessions`` are the engine
starts, each with its attestation; ``levels`` hold every question's outcome, which is what paired
comparison needs. A file is continued only by a run with the very same header.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_plugin import attestation
from hetero_plugin.evaluation import guard, power, records, stats
from hetero_plugin.evaluation.files import write_json
from hetero_plugin.evaluation.records import ResultError

__all__ = [
    "FORMAT",
    "ResultError",
    "between",
    "differences",
    "is_level",
    "level_row",
    "load",
    "new",
    "paired",
    "pass_row",
    "problems",
    "read_json",
    "resume",
    "within",
    "write_json",
]

FORMAT = 1


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
        ResultError: there is no such file, it can't be read, or it isn't JSON.
    """
    return records.read(path)[0]


def new(header: Mapping[str, Any]) -> dict[str, Any]:
    """An empty results document."""
    return {"format": FORMAT, "header": dict(header), "sessions": [], "levels": []}


def load(path: Path) -> dict[str, Any]:
    """Reads and checks a results file.

    Raises:
        ResultError: wrong format, a part that is missing or of the wrong type (the message names
            line and field), a level twice, or levels whose outcomes don't match the number of
            questions.
    """
    document, text = records.read(path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ResultError(f"{path}: not an evaluation's results (format {FORMAT})")
    line = records.line_in(text)
    records.check(records.Results, path, document, line)
    n = document["header"]["n"]
    levels = set()
    places = [("levels", index, row) for index, row in enumerate(document["levels"])]
    places += [("draws", index, row) for index, row in enumerate(document.get("draws") or [])]
    for part, index, row in places:
        where = f"{path}, line {line((part, index))}"
        which = (row["level"], row.get("draw", 0), row.get("sample", 0))
        if which in levels:
            raise ResultError(f"{where}: level {row['level']:g} is there twice")
        levels.add(which)
        right = sum(row["outcomes"])
        if len(row["outcomes"]) != n or right != row["accuracy"]["hits"]:
            raise ResultError(
                f"{where}: level {row['level']:g} holds {len(row['outcomes'])} outcomes with "
                f"{right} right; its header says n={n}, its accuracy "
                f"{row['accuracy']['hits']} right"
            )
        if row["accuracy"]["n"] != n or len(row.get("texts") or row["outcomes"]) != n:
            raise ResultError(
                f"{where}: level {row['level']:g} holds {len(row.get('texts') or [])} texts, and "
                f"an accuracy of {row['accuracy']['n']} questions; its header says n={n}"
            )
    return document


def resume(path: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """The document to continue: what ``path`` holds, or an empty one.

    Raises:
        ResultError: ``path`` holds another run; nothing is overwritten.
    """
    if not path.exists():
        return new(header)
    document = load(path)
    old, fresh = document["header"], json.loads(json.dumps(dict(header)))
    different = sorted(k for k in {*old, *fresh} if old.get(k) != fresh.get(k))
    if different:
        what = "; ".join(f"{k}: {old.get(k)!r:.80} there, {fresh.get(k)!r:.80} now"
                         for k in different[:4])  # fmt: skip
        raise ResultError(
            f"{path} holds another run ({what}); give another --out, or remove that file"
        )
    return document


def level_row(document: Mapping[str, Any], level: float) -> dict[str, Any] | None:
    """The finished row of a noise level, or None."""
    for row in document["levels"]:
        if row["level"] == level:
            return row
    return None


def pass_row(
    document: Mapping[str, Any], level: float, draw: int = 0, sample: int = 0
) -> dict[str, Any] | None:
    """The finished row of a level in one draw of the error and one sample, or None."""
    if draw == sample == 0:
        return level_row(document, level)
    for row in document.get("draws") or []:
        if (row["level"], row["draw"], row["sample"]) == (level, draw, sample):
            return row
    return None


def problems(document: Mapping[str, Any]) -> list[str]:
    """Why the document's noise is not proven; empty when every level's session attested."""
    found: list[str] = []
    if not document["levels"]:
        found.append("no level was evaluated")
    fingerprint = document["header"].get("fingerprint")
    rows = [*document["levels"], *(document.get("draws") or [])]
    used = sorted({int(row["session"]) for row in rows})
    for index in used:
        if not 0 <= index < len(document["sessions"]):
            found.append(f"session {index} is missing")
            continue
        session = document["sessions"][index]
        for problem in attestation.problems(session.get("attestation"), fingerprint):
            found.append(f"session {index}: {problem}")
    for row in rows:
        scales = row.get("scales") or {}
        if not is_level(scales, row["level"]):
            found.append(
                f"level {row['level']:g}: the engine reported scales "
                f"{scales.get('min')} to {scales.get('max')}"
            )
    return found


def is_level(scales: Mapping[str, Any], level: float) -> bool:
    """Whether every scale the engine holds is ``level``, to the precision of its float32 table."""
    bounds = (scales.get("min"), scales.get("max"))
    return all(b is not None and abs(b - level) <= 1e-6 * max(level, 1e-30) for b in bounds)


def within(document: Mapping[str, Any], margin: float) -> list[dict[str, Any]]:
    """Each noisy level against level 0 of the same checkpoint, paired by question."""
    clean = level_row(document, 0.0)
    chance = document["header"].get("chance") or 0.0
    rows = []
    for row in document["levels"]:
        if clean is None or row["level"] == 0.0:
            continue
        against = guard.pair_reasons(clean, row, margin=margin, chance=chance)
        rows.append({"level": row["level"], **paired(clean, row, margin, against)})
    return rows


def check_comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """That two results are of the same questions, judged by the same rule.

    Raises:
        ResultError: they are not.
    """
    remedies = {
        "n": "evaluate both on the same file with the same n",
        "task_sha256": "evaluate both on the same file with the same n",
        "scorer": "evaluate both with the same scorer",
    }
    for key, remedy in remedies.items():
        one, two = first["header"].get(key), second["header"].get(key)
        if one != two and (key != "scorer" or (one and two)):
            what = "judged by different rules" if key == "scorer" else "asked different questions"
            raise ResultError(f"the checkpoints were {what} ({key}: {one} and {two}); {remedy}")


def between(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    margin: float,
    names: tuple[str, str] = ("the first's answers", "the second's answers"),
) -> list[dict[str, Any]]:
    """Two checkpoints at each common level, paired by question; difference is second - first.

    Args:
        first: results of what is compared with.
        second: results of the other.
        margin: of equivalence, a share.
        names: what the answers of each are called where something stands against a verdict.

    Raises:
        ResultError: they answered different questions, or were judged by different rules.
    """
    check_comparable(first, second)
    chance = max(document["header"].get("chance") or 0.0 for document in (first, second))
    rows = []
    for row in first["levels"]:
        other = level_row(second, row["level"])
        if other is not None:
            against = guard.pair_reasons(row, other, margin=margin, chance=chance, names=names)
            rows.append({"level": row["level"], **paired(row, other, margin, against)})
    return rows


# What may differ between arms only if the page says so. Their weights differ: that is the point.
COMPARED = (
    "spec",
    "fingerprint",
    "seed",
    "step",
    "max_tokens",
    "dtype",
    "decoding",
    "scorer",
    "chance",
    "margin",
    "engine",
    "backend",
    "draws",
    "samples",
    "temperature",
)


def differences(documents: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Header fields in which compared runs differ: ``field`` and ``values`` by name.

    A field that a file lacks, as older ones do, counts as a value of its own (None).
    """
    found = []
    for field in COMPARED:
        values = {name: document["header"].get(field) for name, document in documents.items()}
        if len({json.dumps(value, sort_keys=True) for value in values.values()}) > 1:
            found.append({"field": field, "values": values})
    versions = {
        name: sorted({json.dumps(s.get("versions") or {}, sort_keys=True)
                      for s in document["sessions"]})
        for name, document in documents.items()
    }  # fmt: skip
    if len({json.dumps(v) for v in versions.values()}) > 1:
        shown = {name: "; ".join(texts) for name, texts in versions.items()}
        found.append({"field": "library versions", "values": shown})
    return found


def paired(
    one: Mapping[str, Any], two: Mapping[str, Any], margin: float, against: Sequence[str] = ()
) -> dict[str, Any]:
    """Two rows of answers to the same questions, compared.

    Args:
        one: ``outcomes``, and where known ``texts``, ``tokens``, ``also``.
        two: the same.
        margin: of equivalence, a share.
        against: reasons why no verdict may be drawn.

    Returns:
        ``stats.Paired``'s fields, ``equivalence``, ``no_verdict`` and ``questions_to_decide``;
        where known ``changed_texts`` and ``mean_tokens`` (of both).
    """
    compared = stats.compare(one["outcomes"], two["outcomes"])
    result = compared.to_dict()
    if result["minimum_detectable"] == float("inf"):
        result["minimum_detectable"] = None  # JSON has no infinity
    result["equivalence"] = stats.equivalence(compared, margin).to_dict()
    result["no_verdict"] = list(against)
    result["questions_to_decide"] = power.questions_to_decide(
        compared.difference, compared.discordance, margin
    )
    result["legacy"] = power.legacy(one["outcomes"], two["outcomes"]).to_dict()
    texts, others = one.get("texts"), two.get("texts")
    if texts and others:
        changed = sum(a != b for a, b in zip(texts, others, strict=True))
        result["changed_texts"] = changed / len(texts)
    return result
