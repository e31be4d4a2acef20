"""What the files of a run must hold, and where in a file something else stands.

The models check what is read by the code that compares and shows results; keys beyond those are
left alone. The data itself stays as it was read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hetero_plugin.evaluation.files import FileError, reason


class ResultError(FileError):
    """A results file that can't be read or continued; the message says which part and why."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


_Number = float  # strict: an integer is one too, true and "0.5" are not
_Share = Annotated[_Number, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0)]
_Text = str | None
Outcome = Annotated[int, Field(ge=0, le=1)]


class _Accuracy(_Part):
    hits: _Count
    n: _Count
    value: _Share
    low: _Share
    high: _Share


class _Scales(_Part):
    min: _Number | None = None
    max: _Number | None = None


class _Other(_Part):
    accuracy: _Accuracy
    outcomes: list[Outcome]


class _Level(_Part):
    level: Annotated[_Number, Field(ge=0)]
    session: int
    accuracy: _Accuracy
    outcomes: list[Outcome]
    texts: list[str] | None = None
    truncated_share: _Share | None = None
    mean_tokens: _Number | None = None
    seconds: _Number = 0.0
    scales: _Scales | None = None
    tokens: list[_Count] | None = None
    scored_by: _Text = None
    also: dict[str, _Other] = {}


class _Control(_Part):
    accuracy: _Accuracy
    outcomes: list[Outcome]
    texts: list[str] | None = None


class _Draw(_Level):
    draw: _Count
    sample: _Count


class _Seen(_Part):
    name: str
    seen: bool
    max_abs: _Number | None = None
    rms: _Number | None = None


class _Kind(_Part):
    seen: _Count
    of: _Count


class _Check(_Part):
    name: str
    passed: bool
    detail: str


class _Attestation(_Part):
    sites: list[_Seen] = []
    aqn: list[_Seen] | None = None
    by_kind: dict[str, _Kind] = {}
    checks: list[_Check] = []
    failures: list[str] | None = None
    processes: list[dict[str, Any]] = []
    seen: _Count = 0
    of: _Count = 0
    seconds: _Number
    time: str
    knock_in_scale: _Number
    signature: str | None = None


class _Session(_Part):
    attestation: _Attestation | None = None
    versions: dict[str, str] | None = None


class Header(_Part):
    """What was asked."""

    n: Annotated[int, Field(ge=1, le=1_000_000_000)]
    total: int | None = None
    margin: Annotated[_Number, Field(gt=0, lt=1)] = 0.02
    fingerprint: _Text = None
    model: _Text = None
    model_sha256: _Text = None
    task: _Text = None
    task_sha256: _Text = None
    data_source: _Text = None
    scorer: _Text = None
    chance: Annotated[_Number, Field(ge=0, lt=1)] = 0.0
    max_tokens: _Count | None = None
    decoding: _Text = None
    dtype: _Text = None
    seed: int | None = None
    step: int | None = None
    spec: dict[str, Any] | None = None
    engine: dict[str, Any] | None = None


class _Realised(_Part):
    kind: str
    sites: _Count
    asked: _Number | None
    rms_relative: _Number | None
    bias: _Number | None
    changed: _Share
    sqnr_db: _Number | None


class _RealisedPart(_Part):
    note: str
    by_kind: list[_Realised]


class Results(_Part):
    """An evaluation's results (``evaluation.results``)."""

    header: Header
    sessions: list[_Session]
    levels: list[_Level]
    draws: list[_Draw] | None = None
    control: _Control | None = None
    realised: _RealisedPart | None = None


class Settings(_Part):
    """``settings.json`` of a run folder."""

    title: str = ""
    baseline: str | None = None
    labels: dict[str, str] | None = None
    seed: int | None = None


class Training(_Part):
    """``train.json`` of an arm."""

    seed: int | None = None
    fingerprint: str | None = None


def read(path: Path) -> tuple[Any, str]:
    """The data of a JSON file, and its text.

    Raises:
        ResultError: no such file, a folder, unreadable, not UTF-8, or not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ResultError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ResultError(f"{path}: is a folder, and should be a file") from None
    except OSError as error:
        raise ResultError(f"{path}: can't be read: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise ResultError(
            f"{path}: not valid JSON (not in UTF-8, at byte {error.start}); remove it and run again"
        ) from None
    try:
        return json.loads(text, parse_constant=_no_constant), text
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        what = "the file is empty" if not text.strip() else what
        raise ResultError(f"{path}: not valid JSON ({what}); remove it and run again") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def check(model: type[BaseModel], path: Path, data: Any, line: Callable[..., int | None]) -> None:
    """Checks data against a model.

    Args:
        line: gives the line of a place in the file (a sequence of keys and indices), or None.

    Raises:
        ResultError: with file, line, field, what is there and what should be.
    """
    try:
        model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False)
        first = found[0]
        place = tuple(first["loc"])
        where = f"{path}"
        number = line(place)
        if number is not None:
            where += f", line {number}"
        field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).lstrip(".")
        if first["type"] == "missing":
            says = f"{field!r} is missing"
        else:
            want = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            given = f"{first['input']!r:.60}"
            says = f"{field!r} is {given}; it should be {want}" if field else f"is {given}: {want}"
        more = f" (and {len(found) - 1} more faults)" if len(found) > 1 else ""
        raise ResultError(f"{where}: {says}{more}") from None


def line_in(text: str) -> Callable[[Sequence[int | str]], int | None]:
    """Finds lines of a JSON text: of a place, or of the last part of it that is there."""

    def line(place: Sequence[int | str]) -> int | None:
        at = _skip(text, 0)
        for part in place:
            inner = _inner(text, at, part)
            if inner is None:
                break
            at = inner
        return text.count("\n", 0, at) + 1

    return line


_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"


def _skip(text: str, at: int, also: str = "") -> int:
    while at < len(text) and text[at] in _SPACE + also:
        at += 1
    return at


def _inner(text: str, at: int, part: int | str) -> int | None:
    """Where in ``text`` the member ``part`` of the array or object at ``at`` begins."""
    opening, index = text[at : at + 1], 0
    found: int | None = None
    if opening not in ("{", "["):
        return None
    at = _skip(text, at + 1, ",")
    while text[at] not in "}]":
        name: int | str = index
        if opening == "{":
            name, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at, ":")
        if name == part:
            found = at  # of a key given twice, the last is what a parser keeps
        at = _skip(text, _DECODER.raw_decode(text, at)[1], ",")
        index += 1
    return found
