"""What fidelity, sensitivity and dial wrote, for the page: told apart by what is in the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_plugin import attestation
from hetero_plugin.evaluation import records
from hetero_plugin.evaluation.fidelity import sampled
from hetero_plugin.evaluation.records import ResultError

SHOWN = 20  # sites of a map
FIDELITY = (
    "kl_mean",
    "kl_99",
    "same_top",
    "delta_logp_rms",
    "perplexity_ratio",
    "ratio_out",
)


def kind_of(path: Path) -> str:
    """``results`` of eval, or ``fidelity``, ``sensitivity`` or ``dial``.

    Raises:
        ResultError: it can't be read.
    """
    data, _ = records.read(path)
    if isinstance(data, dict) and "header" not in data:
        if "found_spec" in data:
            return "dial"
        if "by_kind" in data and "sites" in data:
            return "sensitivity"
        if "tokens_by_window" in data and "floor" in data:
            return "fidelity"
    return "results"


def read(paths: Sequence[Path]) -> dict[str, Any]:
    """The panels of files.

    Returns:
        ``fidelity``, ``sensitivity`` and ``dial``: a list each, of what the page shows; and
        ``problems``: why the noise of one is not proven.

    Raises:
        ResultError: a file lacks what it should hold.
    """
    found: dict[str, Any] = {"fidelity": [], "sensitivity": [], "dial": [], "problems": []}
    makers = {"fidelity": _fidelity, "sensitivity": _sensitivity, "dial": _dial}
    for path in paths:
        kind = kind_of(path)
        data, _ = records.read(path)
        try:
            panel = makers[kind](data)
            about = {key: data[key] for key in ("engine", "dtype", "model", "text", "fingerprint")}
        except (KeyError, TypeError, IndexError) as error:
            raise ResultError(
                f"{path}: is no whole result of {kind} ({error} is missing)"
            ) from None
        found[kind].append({"name": path.name, **about, **panel})
        sessions = data.get("sessions") or [data]
        for session in sessions:
            for problem in attestation.problems(session.get("attestation"), data["fingerprint"]):
                found["problems"].append({"arm": path.name, "problem": problem})
    return found


def _fidelity(data: Mapping[str, Any]) -> dict[str, Any]:
    rows = [*data["levels"], {"level": None, **data["floor"]}]  # None: the floor
    return {
        "measures": FIDELITY,
        "tokens": data["floor"]["tokens"],
        "sampled": [
            {"level": row["level"], "sentence": sampled.sentence(row["sampled"])}
            for row in rows
            if row.get("sampled")
        ],
        "rows": [
            {"level": row["level"], **{name: row["measures"][name] for name in FIDELITY}}
            for row in rows
        ],
    }


def _sensitivity(data: Mapping[str, Any]) -> dict[str, Any]:
    suggestion = data["suggestion"]
    largest = max((row["kl"]["value"] for row in data["sites"]), default=0.0)
    keys = ("rank", "rank_low", "rank_high", "name", "kl", "loss", "share", "within_floor")
    return {
        "of": len(data["sites"]),
        "all": data["all"]["kl"],
        "floor": data["floor"]["kl"],
        "kinds": {name: row["kl"] for name, row in data["by_kind"].items()},
        "rows": [
            {**{key: row[key] for key in keys},
             "bar": row["kl"]["value"] / largest if largest else 0.0}
            for row in data["sites"][:SHOWN]
        ],
        "sentence": None if suggestion is None else suggestion["sentence"],
        "keep_clean": [] if suggestion is None else suggestion["keep_clean"],
    }  # fmt: skip


def _dial(data: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("want", "scale", "draws", "monotone", "found_fingerprint")
    return {**{key: data[key] for key in keys}, "measures": dict(data.get("measures") or {}),
            "fresh": dict(data.get("in_fresh_draws") or {}),
            "floor": dict(data.get("floor") or {}), "sentence": data.get("sentence")}  # fmt: skip
