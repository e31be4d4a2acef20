"""What a report's JSON file holds: ``hetero-noise schema report`` prints it as a JSON schema.

A report that is not as described is written all the same, with a warning. Shares, accuracies and
differences are fractions of 1; a difference is second minus first.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Report", "check", "json_schema", "warn_unless_as_described"]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Open(BaseModel):
    """More may stand in it than is described here."""

    model_config = ConfigDict(extra="allow")


class Interval(_Open):
    """A number and where it lies with 95 % confidence; None: it can't be told."""

    value: float | bool | None
    low: float | bool | None
    high: float | bool | None


class Accuracy(_Closed):
    """Accuracy at a level, of the first noise draw, greedy."""

    level: float
    hits: int
    n: int
    value: float
    low: float
    high: float
    confidence: float
    method: str
    truncated: float | None = Field(description="share of answers cut off at max_tokens")
    mean_tokens: float | None
    also: dict[str, dict[str, Any]] = Field(description="the same by other scorers of the task")


class Equivalence(_Open):
    """Two one-sided tests against the margin."""

    margin: float
    alpha: float
    p: float
    low: float
    high: float
    equivalent: bool


class Paired(_Open):
    """The same questions answered twice."""

    n: int
    both_right: int
    only_first: int
    only_second: int
    both_wrong: int
    difference: float
    low: float
    high: float
    confidence: float
    mcnemar_p: float
    discordance: float = Field(description="share of questions that one of the two got right")
    minimum_detectable: float | None
    method: str
    equivalence: Equivalence
    no_verdict: list[str] = Field(description="why these answers bear no verdict; empty: they do")
    questions_to_decide: int | None
    changed_texts: float | None = None
    sentence: str


class Comparison(Paired):
    """A declared comparison: an arm's noise with its clean answers, or an arm with the baseline."""

    type: Literal["noise", "arms"]
    first: str
    second: str
    level: float
    p_adjusted: float = Field(description="Holm, over all comparisons of the report")
    verdict: str = Field(description="EQUIVALENT, DEGRADED, IMPROVED, UNDECIDED or NO VERDICT")


class Source(_Open):
    """An accuracy, or its difference from clean, over training seeds, draws and samples."""

    arm: str
    level: float
    of: Literal["accuracy", "difference"]
    value: float
    low: float | None = Field(description="None: every answer is alike, which tells no variance")
    high: float | None
    shares: dict[str, float] = Field(description="of the variance of the mean, by its source")
    counts: dict[str, int]
    sentence: str


class Arm(_Closed):
    """A model that was evaluated."""

    label: str
    model: str | None
    model_sha256: str | None
    fingerprint: str | None = Field(description="of the specification that it was evaluated under")
    evaluation_spec: dict[str, Any] | None
    noise_seed: int | None
    errors: str
    train: dict[str, Any]
    seconds: float
    levels: list[Accuracy]
    realised: dict[str, Any] | None = Field(description="the error that was measured, by kind")


class Dose(_Open):
    """The level at which an accuracy has lost ``delta``, by a fitted curve."""

    kind: str
    delta: float
    levels: int
    sentence: str


class Attestation(_Closed):
    """Whether the noise was there: by arm, each session's record as it was signed."""

    label: str
    seen: int
    of: int
    passed: bool
    sessions: list[dict[str, Any]]


class Refusal(_Closed):
    """Why a result is not shown."""

    arm: str
    problem: str


class Panels(_Closed):
    """What fidelity, sensitivity and dial found, where their files were given."""

    fidelity: list[dict[str, Any]]
    sensitivity: list[dict[str, Any]]
    dial: list[dict[str, Any]]


class Details(_Closed):
    """Sentences about one arm."""

    about: str
    sentences: list[str]


class Summary(_Closed):
    """The page's words."""

    headlines: list[str]
    details: list[Details]


class Head(_Closed):
    """What every report says; one that is REFUSED says nothing else."""

    format: int
    status: Literal["ATTESTED", "UNATTESTED", "REFUSED"]
    refused: list[Refusal]
    title: str
    time: str
    settings: dict[str, Any]
    versions: dict[str, str]
    attestation: dict[str, Attestation]


class Difference(_Closed):
    """A field of the header in which compared runs differ beside their weights."""

    field: str
    values: dict[str, Any] = Field(description="by arm")


class Report(Head):
    """A report of one or more arms, evaluated on the same questions at the same levels."""

    n: int
    task: dict[str, Any]
    differences: list[Difference]
    floors: dict[str, Paired] = Field(description="A/A: clean against clean in other batches")
    sources: list[Source]
    panels: Panels
    levels: list[float]
    margin: float
    confidence: float
    baseline: str
    arms: dict[str, Arm]
    dose: dict[str, Dose | None]
    comparisons: list[Comparison]
    curves: dict[str, Any]
    mismatch: list[dict[str, Any]]
    summary: Summary
    legacy: list[dict[str, Any]]
    limits: list[str]


def check(report: Mapping[str, Any]) -> None:
    """That a report is as described.

    Raises:
        pydantic.ValidationError: it is not, each place named.
    """
    (Head if report.get("status") == "REFUSED" else Report).model_validate(report)


def warn_unless_as_described(report: Mapping[str, Any], path: Path) -> None:
    """Warns of a report that was written and is not as described: what it found is not lost."""
    try:
        check(report)
    except ValueError as error:
        warnings.warn(f"{path} is not as its schema says: {error}", stacklevel=3)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a report's file."""
    return Report.model_json_schema()
