"""The dial by accuracy: the scale at which a model loses so many points of a question file.

Accuracy moves in steps of a question and one scale says little, so no root is searched: questions
are answered at a ladder of levels in one engine, and a curve is fitted (``evaluation.dose``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation import files
from hetero_plugin.evaluation.answers.run import evaluate
from hetero_plugin.evaluation.dose.found import LEAST_LEVELS, of_accuracy
from hetero_plugin.evaluation.fidelity.batch import Progress
from hetero_plugin.evaluation.specs import evaluation_spec

FORMAT = 1
NAME = "accuracy-loss"
LADDER = (0.01, 0.02, 0.05, 0.1, 0.2)


def parse(text: str) -> float | None:
    """The share that is to be lost, of ``accuracy-loss=2pp``; None where another thing is wanted.

    Raises:
        ConfigError: accuracy-loss without a number of points between 0 and 100.
    """
    name, _, number = text.partition("=")
    if name.strip() != NAME:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*pp\s*", number)
    if not found or not 0 < float(found[1]) < 100:
        raise ConfigError(
            f"--want {text!r}: it should be accuracy-loss=POINTSpp, such as accuracy-loss=2pp"
        )
    return float(found[1]) / 100


def find(
    model: Path,
    data: Path,
    loss: float,
    *,
    spec: Any,
    out: Path,
    levels: Sequence[float] = LADDER,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """The scale at which ``loss`` is lost, with its interval over questions.

    Args:
        model: folder of a clean checkpoint.
        data: questions, as for ``evaluate``.
        loss: a share; 0.02 is two points.
        spec: as for ``evaluate``.
        out: a .json file for the result. The answers lie beside it, in ``NAME.eval.json``, with
            which an interrupted dial goes on, and which ``report`` and ``dose`` read.
        levels: over 0; 0 is added.
        progress: called with what is being done, and how far.
        settings: of ``answers.settings.Settings``.

    Returns:
        ``want``; ``scale`` (``value``, ``low``, ``high``, None where it is beyond the levels);
        ``sentence``; ``found_spec`` and ``found_fingerprint``, the spec at that scale; the fit.

    Raises:
        ConfigError: bad settings, too few levels, or no scale can be given, with why.
        As ``evaluate``.
    """
    if out.suffix != ".json":
        raise ConfigError(f"--out {out}: it should end in .json; the answers lie beside it")
    wanted = sorted({0.0, *map(float, levels)})
    if len(wanted) < LEAST_LEVELS:
        raise ConfigError(
            f"levels are {list(levels)}: a curve needs {LEAST_LEVELS - 1} of them over 0"
        )
    files.check_target(out)
    document = evaluate(
        model, data, spec=spec, out=out.with_suffix(".eval.json"), levels=wanted,
        progress=progress, **settings,
    )  # fmt: skip
    fit = of_accuracy(document, loss)
    assert fit is not None  # there are enough levels, and 0 is one of them
    level = fit["level"]
    if level is None or level["value"] is None:
        raise ConfigError(f"--want {NAME}={100 * loss:g}pp: {fit['sentence']}")
    config = evaluation_spec(document["header"]["spec"], None, level["value"])
    session = document["sessions"][document["levels"][-1]["session"]]
    header = {key: document["header"][key] for key in ("model", "model_sha256", "dtype", "step")}
    found = {
        "format": FORMAT,
        **header,
        "text": str(data),
        "engine": session["attestation"]["engine"],
        "fingerprint": document["header"]["fingerprint"],
        "spec": document["header"]["spec"],
        "want": {"measure": NAME, "value": loss},
        "draws": 1,
        "monotone": True,
        "scale": level,
        "sentence": fit["sentence"],
        "found_spec": json.loads(config.canonical),
        "found_fingerprint": config.fingerprint,
        "dose": fit,
        **session,
    }
    files.write_json(out, found)
    return found
