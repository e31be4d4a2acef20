"""Whether an evaluation that lies in a run's folder is this study's, before it counts in a report.

A report is made of what is there, also where a cluster trained and evaluated by hand. What does not
fit the study as it reads now bears no verdict: another margin would be one chosen afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation.specs import evaluation_spec
from hetero_plugin.study import record
from hetero_plugin.study.resolve import Resolved
from hetero_plugin.study.run import RECORD, chain, identity

__all__ = ["problems"]

_PATHS = ("actor_rollout_ref.model.path", "data.train_files", "data.val_files")
"""Settings that are other where a study's folder was moved to, and nothing else is."""


def problems(run: Resolved, step: int, under: str, header: Mapping[str, Any]) -> list[str]:
    """Why an evaluation must not count, each in a sentence; empty: it may.

    Args:
        run: that it is of.
        step: of the checkpoint.
        under: preset or path of the specification.
        header: of the results file ``run.evaluated_at(step, under)``.

    Raises:
        OSError: that file can't be read.
    """
    return [*_trained(run), *_written(run, step, under), *_asked(run, under, header)]


def _trained(run: Resolved) -> Iterator[str]:
    """The run's own record says that it is this run; without one it was run by hand."""
    path = run.folder / RECORD
    if not path.is_file():
        return
    then, now = record.read(path), json.loads(json.dumps(identity(run)))
    if then is None or not isinstance(then.get("settings"), dict):
        yield f"its {RECORD} can't be read, so which run this is is not known"
        return
    old, new = (
        {**one, "settings": {k: v for k, v in one["settings"].items() if k not in _PATHS}}
        for one in (then, now)
    )
    if found := list(record.differences(old, new)):
        yield f"it is of a run of other settings ({'; '.join(found)})"


def _written(run: Resolved, step: int, under: str) -> Iterator[str]:
    """It is the very file that its stage wrote, of the weights that are there now."""
    path, done = run.evaluated_at(step, under), run.folder / f"eval-step{step}.done.json"
    finished = record.read(done)
    if finished is None:
        return  # evaluated by hand, or not finished
    outputs = finished.get("outputs")
    wanted = outputs.get(path.name) if isinstance(outputs, dict) else None
    if wanted is not None and record.file_digest(path) != wanted:
        yield f"it is not the file that its evaluation wrote, by {done.name}"
    stage = next(one for one in chain(run) if one.record == done)
    if finished.get("inputs") != record.digest(stage.inputs()):
        yield (
            f"{done.name} is of other weights or another evaluation than the study's now; "
            "hetero-noise study run evaluates again"
        )


def _asked(run: Resolved, under: str, header: Mapping[str, Any]) -> Iterator[str]:
    """It was asked for what the study asks for now; what a header does not say is not compared."""
    wanted, data = run.evaluation, run.place.data or run.study.data
    now: dict[str, Any] = {
        "seed": wanted.seed,
        "draws": wanted.draws,
        "margin": wanted.margin,
        "dtype": wanted.dtype,
        "n": min(wanted.questions or header["total"], header["total"])
        if "total" in header
        else None,
        "max_tokens": wanted.max_tokens,
    }
    found = [
        f"{name}: {json.dumps(header[name])} there, {json.dumps(value)} in the study"
        for name, value in now.items()
        if value is not None and name in header and header[name] != value
    ]
    names = [Path(str(path)).name for path in (header.get("task"), data.test or data.val)]
    if "task" in header and names[0] != names[1]:
        found.append(f"questions: {names[0]} there, {names[1]} in the study")
    if "spec" in header and not _same(header["spec"], under, wanted.draws):
        found.append(f"specification: not that of {under}")
    if found:
        yield f"it was evaluated otherwise ({'; '.join(found)})"


def _same(then: Any, under: str, draws: int) -> bool:
    """Whether two specifications are one in an evaluation, whatever its levels and seed."""
    try:
        one, two = (evaluation_spec(spec, 0, 1.0) for spec in (then, under))
    except ConfigError:
        return False
    if draws > 1:  # each draw is a step
        one, two = (config.replace(resample="step") for config in (one, two))
    return one.fingerprint == two.fingerprint
