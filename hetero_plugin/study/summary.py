"""The end of a run in one page: what was asked, realised, attested where, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hetero_plugin.evaluation.files import write_text
from hetero_plugin.study.resolve import Resolved
from hetero_plugin.verl.metrics import by_step

__all__ = ["METRICS", "NAME", "lines", "metrics_of", "summary", "write"]

NAME = "summary.json"
METRICS = "metrics.jsonl"
FORMAT = 1
_CLEAN, _NOISY, _ACCURACY = "val-core/", "hetero/val_noisy/", "/acc/mean@1"
_GAP = "hetero/rollout_actor_logprob_gap/"
_ERROR = ("hetero/actor/realised_error/", "hetero/rollout/realised_error/")


def metrics_of(folder: Path) -> dict[int, dict[str, Any]]:
    """Metrics by step of all attempts at a run; a later attempt's word on a step counts."""
    return by_step(folder / METRICS)


def _series(metrics: Mapping[int, Mapping[str, Any]], name: str) -> dict[int, float]:
    return {step: float(data[name]) for step, data in metrics.items() if name in data}


def _accuracy(metrics: Mapping[int, Mapping[str, Any]], start: str) -> dict[str, dict[int, float]]:
    """Accuracy by step, by the questions' source."""
    names = {name for data in metrics.values() for name in data}
    chosen = sorted(n for n in names if n.startswith(start) and n.endswith(_ACCURACY))
    return {name[len(start) : -len(_ACCURACY)]: _series(metrics, name) for name in chosen}


def _realised(metrics: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean over the steps of each engine's realised error, by kind."""
    names = sorted({name for data in metrics.values() for name in data if name.startswith(_ERROR)})
    found: dict[str, dict[str, float]] = {}
    for name in names:
        values = _series(metrics, name).values()
        _, engine, _, kind = name.split("/", 3)
        found.setdefault(engine, {})[kind] = sum(values) / len(values)
    return found


def _attested(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted((folder / "checkpoints").glob("attestation-*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        found.append(
            {
                "file": path.name,
                "when": document["when"],
                "step": document["step"],
                "passed": document["passed"],
                "fingerprint": document["fingerprint"],
                "processes": [
                    {
                        "process": one["process"],
                        **{
                            key: one["record"][key]
                            for key in ("seen", "of", "absent")
                            if key in one["record"]
                        },
                    }
                    for one in document["records"]
                ],
            }
        )
    return found


def summary(run: Resolved, seconds: float) -> dict[str, Any]:
    """The run's summary as JSON data, from what it left in its folder.

    Args:
        seconds: that this attempt took, its start included.
    """
    metrics = metrics_of(run.folder)
    origin = run.study.arm(run.arm).origin
    trained = [step for step in metrics if step > 0]
    return {
        "format": FORMAT,
        "run": run.name,
        "study": run.study.name,
        "arm": run.arm,
        "seed": run.seed,
        "where": run.where,
        "asked": {
            "steps": run.steps,
            "noise": None if run.noise is None else json.loads(run.noise.canonical),
            "fingerprint": None if run.noise is None else run.noise.fingerprint,
            "options": run.study.arm(run.arm).options,
        },
        "origin": None if origin is None else origin.model_dump(mode="json", exclude_none=True),
        "steps": trained[-1] if trained else 0,
        "realised": _realised(metrics),
        "attested": _attested(run.folder) if run.noise is not None else [],
        "accuracy": {"clean": _accuracy(metrics, _CLEAN), "noisy": _accuracy(metrics, _NOISY)},
        "reward": _series(metrics, "critic/rewards/mean"),
        "sigma": _series(metrics, "hetero/sigma"),
        "gap": {kind: _series(metrics, _GAP + kind) for kind in ("mean", "max")},
        "seconds": {
            "this attempt": round(seconds, 1),
            "step": {k: round(v, 2) for k, v in _series(metrics, "timing_s/step").items()},
        },
    }


def _short(values: Mapping[int, float], percent: bool = False) -> str:
    """First, last and what lies between, in few words."""
    if not values:
        return "not measured"
    shown = {s: f"{100 * v:.2f} %" if percent else f"{v:.4g}" for s, v in values.items()}
    items = list(shown.items())
    kept = items if len(items) <= 8 else [*items[:3], *items[-3:]]
    return ", ".join(f"{step}: {value}" for step, value in kept)


def lines(data: Mapping[str, Any]) -> Iterable[str]:
    """The summary for a log, a line a subject; every line begins with the package's name."""
    asked = data["asked"]
    yield f"run {data['run']} at {data['where']}: {data['steps']} of {asked['steps']} steps"
    yield "asked: " + (f"specification {asked['fingerprint']}" if asked["noise"] else "no error")
    for engine, kinds in data["realised"].items():
        sizes = ", ".join(f"{kind} {value:.4g}" for kind, value in kinds.items())
        yield f"realised in the {engine}, relative RMS: {sizes}"
    for one in data["attested"]:
        processes = "; ".join(
            f"{p['process']} {p.get('absent') or '{}/{} sites'.format(p.get('seen'), p.get('of'))}"
            for p in one["processes"]
        )
        word = "attested" if one["passed"] else "REFUSED"
        yield f"{word} at the {one['when']}, step {one['step']}: {processes}"
    for kind in ("clean", "noisy"):
        for source, values in data["accuracy"][kind].items():
            yield f"accuracy {kind}, {source}: {_short(values, percent=True)}"
    if data["sigma"]:
        yield f"AQN's σ: {_short(data['sigma'])}"
    if data["gap"]["mean"]:
        yield f"gap of log-probs, rollout to actor, mean: {_short(data['gap']['mean'])}"
    yield f"reward: {_short(data['reward'])}"
    yield f"time: {data['seconds']['this attempt']:.0f} s"


def write(run: Resolved, seconds: float) -> dict[str, Any]:
    """Writes ``summary.json`` into the run's folder and the lines at the end of its log."""
    data = summary(run, seconds)
    text = "".join(f"[hetero_noise] summary: {line}\n" for line in lines(data))
    with (run.folder / "train.log").open("a", encoding="utf-8") as log:
        log.write(text)
    write_text(run.folder / NAME, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    return data
