"""The dose and response of one results file: read, fitted, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_plugin.attestation import Refused, require
from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation import files, records, results
from hetero_plugin.evaluation.dose import sequence
from hetero_plugin.evaluation.dose.found import DELTA, LEAST_LEVELS, of_accuracy, of_kl
from hetero_plugin.figures import backend


def read(path: Path, points: float | None = None, kl: float | None = None) -> dict[str, Any]:
    """Fits what a file of ``eval`` or of ``fidelity`` holds.

    Args:
        path: the file.
        points: of accuracy that are lost, for a file of ``eval``; None: 2.
        kl: nats a token that are reached, needed for a file of ``fidelity``.

    Raises:
        ResultError: the file can't be read, or is neither.
        ConfigError: a setting that is not the file's, or fewer than 5 levels.
        Refused: its noise is not attested.
    """
    return _fitted(str(path), _document(path), points, kl)


def read_sequence(
    paths: Sequence[Path], points: float | None = None, kl: float | None = None
) -> dict[str, Any]:
    """Fits files of one number format each, by the size of each format's own error.

    Args:
        paths: what ``eval`` wrote at levels 0 and 1, or ``fidelity`` at level 1, of one model.
        points, kl: as `read`.

    Returns:
        As `read`, and ``formats``: the sequence.

    Raises:
        ResultError, ConfigError, Refused: as `read` and `sequence.merged`.
    """
    documents = [(str(path), _document(path)) for path in paths]
    if len({"header" in document for _, document in documents}) > 1:
        raise ConfigError("some files are of `eval` and some of `fidelity`: give those of one")
    document = sequence.merged(documents)
    found = _fitted("these formats", document, points, kl)
    found["formats"] = document["formats"]
    found["sentence"] += f"; formats by their own error: {sequence.words(document['formats'])}"
    return found


def _document(path: Path) -> dict[str, Any]:
    """A whole file whose noise is attested."""
    data, _ = records.read(path)
    if isinstance(data, dict) and "header" in data:
        document = results.load(path)
        problems = results.problems(document)
        if problems:
            raise Refused("REFUSED: " + "; ".join(problems))
        return document
    if not (isinstance(data, dict) and {"levels", "floor", "attestation"} <= set(data)):
        raise records.ResultError(f"{path}: is no file of `eval`, and none of `fidelity`")
    require(data["attestation"], data.get("fingerprint"))
    return data


def _fitted(
    name: str, document: Mapping[str, Any], points: float | None, kl: float | None
) -> dict[str, Any]:
    if "header" in document:
        if kl is not None:
            raise ConfigError(f"--kl {kl:g}: {name} holds accuracies; give --points")
        found = of_accuracy(document, DELTA if points is None else points / 100)
        need = f"{LEAST_LEVELS} levels, one of them 0"
    else:
        if points is not None or kl is None:
            raise ConfigError(f"{name} holds KL; give --kl NATS, such as --kl 0.01")
        try:
            found = of_kl(document, kl)
        except (LookupError, TypeError, AttributeError) as error:
            raise records.ResultError(
                f"{name}: is no whole file of fidelity ({type(error).__name__}: {error})"
            ) from None
        need = f"{LEAST_LEVELS} levels over the floor"
    if found is None:
        there = ", ".join(f"{row['level']:g}" for row in document["levels"]) or "none"
        raise ConfigError(f"{name}: a curve needs {need}; there are {there}")
    return found


def write(path: Path, found: Mapping[str, Any]) -> Path:
    """Writes the fit as JSON, and its figure beside it as PNG; the figure's path.

    Raises:
        FileError: one can't be written.
    """
    if path.suffix != ".json":
        raise ConfigError(f"--out {path}: it should end in .json; the figure lies beside it")
    picture = path.with_suffix(".png")
    try:
        files.write_json(path, found)
        draw(found, picture)
    except OSError as error:
        raise files.FileError(f"{path}: can't be written: {files.reason(error)}") from None
    return picture


def draw(found: Mapping[str, Any], path: Path) -> None:
    """The curve with its band, the levels' own intervals, and the level that is read off.

    Raises:
        ImportError: matplotlib is missing.
        OSError: it can't be written.
    """
    pyplot = backend.pyplot("the figure needs")

    curve, points, level = found["curve"], found["points"], found["level"]
    figure, axis = pyplot.subplots(figsize=(6.5, 4), layout="constrained")
    axis.fill_between(curve["scale"], curve["low"], curve["high"], alpha=0.25, lw=0)
    axis.plot(curve["scale"], curve["value"])
    x = [point["level"] for point in points]
    axis.vlines(x, [p["low"] for p in points], [p["high"] for p in points], color="C0")
    axis.plot(x, [point["value"] for point in points], "o", color="C0", ms=5)
    if level is not None and level["value"] is not None:
        axis.axvline(level["value"], color="C1", lw=1.2)
        axis.axvspan(
            level["low"] or found["least"],
            level["high"] or found["largest"],
            color="C1",
            alpha=0.25,
            lw=0,
        )
    if found["kind"] == "kl":
        axis.set(xscale="log", yscale="log", ylabel="KL, nats per token")
    else:
        axis.set_xscale("symlog", linthresh=found["least"])
        axis.set(ylabel="accuracy", xlim=(0, None))
        axis.set_xticks(x, [f"{one:g}" for one in x])
        axis.minorticks_off()
    axis.set_xlabel("scale of the error")
    axis.set_title("bands and bars: 95 % intervals", loc="left", fontsize=10)
    try:
        figure.savefig(path, dpi=130)
    finally:
        pyplot.close(figure)
