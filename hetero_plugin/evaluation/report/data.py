"""Reads a run folder: settings, training metrics, evaluation results.

Layout::

    RUN/settings.json             seed, margin, labels: what was asked for
    RUN/arms/ARM/metrics.jsonl    one line a training step: {"step": 3, "data": {"name": value}}
    RUN/arms/ARM/train.json       what training did (seed, noise spec, AQN, time)
    RUN/eval/ARM.json             hetero_plugin.evaluation.results

or results files by themselves, as `hetero-noise eval` writes them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_plugin.evaluation import records
from hetero_plugin.evaluation.files import reason
from hetero_plugin.evaluation.results import ResultError, load

Series = dict[str, tuple[list[int], list[float]]]

# Which arm the others are compared with, if settings.json does not say.
_BASELINES = ("clean", "baseline")
_LABELS = {
    "noise_aqn": "noise + AQN",
}
_ORDER = ("clean", "baseline", "noise", "noise_aqn")


def read_run(run_dir: Path) -> dict[str, Any]:
    """Everything the report needs of a run, by arm.

    Returns:
        ``settings``; ``baseline`` (an arm's name); ``arms``: name -> ``label``, ``result``
        (evaluation results), ``train`` (a mapping, maybe empty), ``series`` (training metrics).

    Raises:
        ResultError: no run there, nothing evaluated, or a file that can't be read.
    """
    if not run_dir.is_dir():
        raise ResultError(f"{run_dir}: no such run folder")
    settings = _checked(run_dir / "settings.json", records.Settings)
    evaluated = {path.stem: path for path in sorted((run_dir / "eval").glob("*.json"))}
    if not evaluated:
        raise ResultError(
            f"{run_dir}: nothing evaluated yet (expected {run_dir / 'eval'}/ARM.json); "
            "run hetero-noise eval first"
        )
    return _arms(run_dir, settings, evaluated, run_dir / "arms")


def read_files(paths: Sequence[Path]) -> dict[str, Any]:
    """What the report needs of results files by themselves, each an arm by its file's name.

    Args:
        paths: results files of `hetero-noise eval`; the first, or one called clean or baseline,
            is what the others are compared with.

    Returns:
        As `read_run`.

    Raises:
        ResultError: as `read_run`; also two files of one name, and one of a run's own folder.
    """
    evaluated: dict[str, Path] = {}
    for path in paths:
        if path.absolute().parent.name == "eval":  # its page would be taken for an arm there
            run = path.parent.parent if path.parent.name else path.absolute().parent.parent
            raise ResultError(f"{path}: lies in a run's folder of results; give the run: {run}")
        if path.stem in evaluated:
            raise ResultError(
                f"{path} and {evaluated[path.stem]}: have one name, by which the page would call "
                "both; rename one"
            )
        evaluated[path.stem] = path
    named = next((name for name in _BASELINES if name in evaluated), paths[0].stem)
    return _arms(paths[0].parent, {"baseline": named}, evaluated, None)


def _arms(
    run_dir: Path, settings: Mapping[str, Any], evaluated: Mapping[str, Path], trained: Path | None
) -> dict[str, Any]:
    """Results, and what is known of the training of each where there is a folder of it."""
    arms: dict[str, Any] = {}
    for name in sorted(evaluated, key=_rank):
        arms[name] = {
            "label": label_of(name, settings),
            "result": load(evaluated[name]),
            "train": {},
            "series": {},
        }
        if trained is not None:
            arms[name]["train"] = _checked(trained / name / "train.json", records.Training)
            arms[name]["series"] = read_metrics(trained / name / "metrics.jsonl")
    baseline = settings.get("baseline")
    if baseline is None:
        baseline = next((name for name in _BASELINES if name in arms), next(iter(arms)))
    levels = {name: [row["level"] for row in arm["result"]["levels"]] for name, arm in arms.items()}
    if len({tuple(found) for found in levels.values()}) > 1:
        raise ResultError(
            f"{run_dir}: the arms were evaluated at different levels ({levels}); "
            "finish the evaluations first"
        )
    if baseline not in arms:
        raise ResultError(
            f"{run_dir / 'settings.json'}: baseline {baseline!r} was not evaluated; "
            f"there are {sorted(arms)}"
        )
    return {"settings": settings, "baseline": baseline, "arms": arms}


def _checked(path: Path, model: type[records.Settings] | type[records.Training]) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file.

    Raises:
        ResultError: it can't be read, or holds something else.
    """
    if not path.exists():
        return {}
    data, text = records.read(path)
    records.check(model, path, data, records.line_in(text))
    return dict(data)


def label_of(name: str, settings: Mapping[str, Any]) -> str:
    """An arm's name as the page shows it."""
    labels = settings.get("labels") or {}
    return str(labels.get(name) or _LABELS.get(name, name))


def read_metrics(*paths: Path) -> Series:
    """Training metrics by name: (steps, values). Values that are no finite number are left out.

    Args:
        paths: of one run, the oldest attempt first; what is not there has none.

    Raises:
        ResultError: a line that is no object in JSON (the last one may be cut short by an
            interruption), or has no step.
    """
    series: Series = {}
    for path in paths:
        if path.exists():
            _add_metrics(series, path)
    return series


def _add_metrics(series: Series, path: Path) -> None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ResultError(f"{path}: can't be read: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise ResultError(f"{path}: not in UTF-8, at byte {error.start}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as exc:
            if number == len(lines):
                break
            raise ResultError(f"{where}: not JSON: {getattr(exc, 'msg', exc)}") from exc
        step, data = _step(where, record)
        for key, value in data.items():
            if key != "step" and _drawable(value):
                steps, values = series.setdefault(key, ([], []))
                if steps and steps[-1] >= step:  # a resumed run logs a step again: the last counts
                    keep = next(i for i, s in enumerate(steps) if s >= step)
                    del steps[keep:], values[keep:]
                steps.append(step)
                values.append(float(value))


def _drawable(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 and math.isfinite(value)  # an integer may be no float at all


def _step(where: str, record: Any) -> tuple[int, Mapping[str, Any]]:
    """The step of a line of metrics, and its data."""
    if not isinstance(record, Mapping):
        raise ResultError(f"{where}: is {record!r:.60}; it should be an object")
    data = record.get("data", record)
    if not isinstance(data, Mapping):
        raise ResultError(f"{where}: 'data' is {data!r:.60}; it should be an object")
    step = record.get("step", data.get("training/global_step"))
    if step is None:
        raise ResultError(f"{where}: has no 'step'")
    if isinstance(step, bool) or not isinstance(step, int | float) or step != step // 1:
        raise ResultError(f"{where}: 'step' is {step!r:.60}; it should be a whole number")
    return int(step), data


def pick(series: Series, *names: str) -> tuple[list[int], list[float]] | None:
    """The first metric there is; a name may end in ``*`` (first match in order of name)."""
    for name in names:
        if name in series:
            return series[name]
        if name.endswith("*"):
            for key in sorted(series):
                if key.startswith(name[:-1]):
                    return series[key]
    return None


Curves = dict[str, tuple[Sequence[float], Sequence[float]]]


def curves(arms: Mapping[str, Any], *names: str) -> tuple[str, Curves]:
    """One and the same metric for every arm, by label, with its name.

    The first name that all arms have, else the first that any has: curves of one drawing must
    not show two different quantities.
    """
    first: tuple[str, Curves] = ("", {})
    for name in names:
        picked = {arm["label"]: pick(arm["series"], name) for arm in arms.values()}
        found: Curves = {label: curve for label, curve in picked.items() if curve is not None}
        if len(found) == len(arms):
            return name, found
        if found and not first[0]:
            first = (name, found)
    return first


def last_mean(series: Series, name: str, share: float = 0.25) -> float | None:
    """Mean of a metric over the last quarter of training."""
    curve = series.get(name)
    if curve is None:
        return None
    values = curve[1][-max(1, int(len(curve[1]) * share)) :]
    return sum(values) / len(values)


def _rank(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)
