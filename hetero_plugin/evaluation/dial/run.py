"""The dial: one model, its scale table, a fixed batch of text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.evaluation import files
from hetero_plugin.evaluation.dial.search import TARGETS, Curve, Want, interval, root
from hetero_plugin.evaluation.fidelity.batch import MEASURES, Progress
from hetero_plugin.evaluation.fidelity.resample import Resamples
from hetero_plugin.evaluation.fidelity.session import Asked, Session, drawn_by_step, opened
from hetero_plugin.evaluation.specs import evaluation_spec
from hetero_plugin.figures import backend

FORMAT = 1
ATTESTED = 0.05  # the scale of the attestation, whose knock-ins have their own
USUAL = 14  # scales that a search tries, for its bar


def dial_spec(spec: Any, largest: float, seed: int | None) -> NoiseConfig:
    """The spec whose scale is sought: the rules of inference, a draw a step.

    Raises:
        ConfigError: no rule acts in inference, or a bad largest scale.
    """
    if not 0 < largest < math.inf:
        raise ConfigError(f"--largest {largest:g}: it should be a finite number over 0")
    evaluation_spec(spec, seed, largest)  # a number format refuses more than 1
    return drawn_by_step(evaluation_spec(spec, seed, min(ATTESTED, largest)))


def find_in_checkpoint(
    asked: Asked,
    want: Want,
    *,
    largest: float = 1.0,
    out: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The scale at which a checkpoint's mismatch on a text has the wanted size; attested before.

    Args:
        asked: see ``Asked``; its config is ``dial_spec``'s.
        want: the size.
        largest: scale that is tried.
        out: a .json file for the result; a figure is written beside it.
        progress: called with what is being done, and how far.

    Returns:
        ``find``'s result, with what was measured and the attestation.

    Raises:
        ConfigError: a bad setting; the wanted size is within the floor, or not reached.
        Refused: the noise can't be attested.
        FileError: ``out`` can't be written.
    """
    if out is not None:
        if out.suffix != ".json":
            raise ConfigError(f"--out {out}: it should end in .json; the figure lies beside it")
        files.check_target(out)
    with opened(asked, progress) as session:
        found = find(session, asked, want, largest, progress)
    document = {"format": FORMAT, **session.header, **found, **session.attested}
    if out is not None:
        try:
            files.write_json(out, document)
            draw(document, out.with_suffix(".png"))
        except OSError as error:
            raise files.FileError(f"{out}: can't be written: {files.reason(error)}") from None
    return document


def find(
    session: Session,
    asked: Asked,
    want: Want,
    largest: float,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """See ``find_in_checkpoint``; the model's scales and step are put back afterwards.

    Returns:
        ``want``; ``scale`` with its interval and each draw's; ``measures`` there; the same
        ``in_fresh_draws``, which the search has not seen; ``floor``; ``curve``, all that was
        evaluated; ``found_spec`` and ``found_fingerprint``, the spec at that scale.
    """
    table, batch = session.table, session.batch
    floor = Resamples(batch.tokens, 1)
    floors = {name: floor.interval(batch.floor[name][None]) for name in TARGETS}
    noise = floors[want.measure]
    if want.value <= noise["high"]:
        raise ConfigError(
            f"--want {want.measure}={want.value:g}: within the floor; the clean model against "
            f"itself in another batch has {noise['value']:.3g} (up to {noise['high']:.3g}), so so "
            "little error can't be told from none. Ask for more, or give --dtype float32"
        )
    steps = [asked.step + i for i in range(asked.draws)]
    kept: dict[float, dict[str, np.ndarray]] = {}

    def measured(scale: float, which: list[int]) -> dict[str, np.ndarray]:
        parts = []
        table.scale(scale)
        for step in which:
            table.draw(step)
            parts.append(batch.measure())
        return {name: np.stack([part[name] for part in parts]) for name in MEASURES}

    def evaluate(scale: float) -> np.ndarray:
        if progress is not None:
            progress("scales tried", len(kept), USUAL)
        kept[scale] = measured(scale, steps)
        return kept[scale][want.measure]

    resamples = Resamples(batch.tokens, asked.draws)
    curve = Curve(evaluate, resamples)
    try:
        scale = root(curve, want, largest)
        found = interval(curve, want, scale, largest)
        fresh = measured(scale, [steps[-1] + 1 + i for i in range(asked.draws)])
    finally:
        table.restore()
    config = evaluation_spec(asked.config, None, scale)
    return {
        "want": {"measure": want.measure, "value": want.value},
        "scale": found,
        "measures": {name: resamples.interval(kept[scale][name]) for name in MEASURES},
        "in_fresh_draws": {name: resamples.interval(fresh[name]) for name in MEASURES},
        "floor": floors,
        "monotone": not curve.falls,
        "curve": [
            {"scale": one, **resamples.interval(kept[one][want.measure])}
            for one, _ in curve.points()
        ],
        "found_spec": json.loads(config.canonical),
        "found_fingerprint": config.fingerprint,
        "windows": len(batch.tokens),
        "predicted_tokens": int(batch.tokens.sum()),
    }


def draw(document: Mapping[str, Any], path: Path) -> None:
    """The measure against the scale, what was wanted, and the scale with its interval, as a PNG.

    Raises:
        ImportError: matplotlib is missing.
        OSError: it can't be written.
    """
    pyplot = backend.pyplot("the dial's figure needs")

    rows = [row for row in document["curve"] if row["value"] > 0]
    want, scale = document["want"], document["scale"]
    x = [row["scale"] for row in rows]
    figure, axis = pyplot.subplots(figsize=(6.5, 4), layout="constrained")
    axis.fill_between(
        x,
        [max(row["low"], 1e-2 * row["value"]) for row in rows],
        [row["high"] for row in rows],
        alpha=0.25,
        lw=0,
    )
    axis.plot(x, [row["value"] for row in rows], "o-", ms=4)
    axis.axhline(want["value"], color="gray", lw=1, ls="--", label="wanted")
    floor = document["floor"][want["measure"]]["high"]
    if floor > 0:
        axis.axhline(floor, color="gray", lw=1, ls=":", label="floor")
    axis.axvspan(scale["low"] or min(x), scale["high"] or max(x), color="C1", alpha=0.3, lw=0)
    axis.axvline(scale["value"], color="C1", lw=1.2, label=f"scale {scale['value']:.4g}")
    axis.set(xscale="log", yscale="log", xlabel="scale", ylabel=want["measure"])
    axis.set_title("band and bar: 95 % intervals", loc="left", fontsize=10)
    axis.legend(frameon=False, fontsize=9)
    try:
        figure.savefig(path, dpi=130)
    finally:
        pyplot.close(figure)
