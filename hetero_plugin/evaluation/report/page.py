"""The robustness report of a run: ``report.json``, ``.md`` and one self-contained ``.html``.

A report whose results don't carry a passing attestation shows no numbers: it says REFUSED, names
what failed, and ``build`` raises. ``allow_unattested`` shows them all the same and marks the page.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_plugin.attestation import Refused, versions
from hetero_plugin.evaluation import files, power, results, stats
from hetero_plugin.evaluation.dose.found import of_accuracy
from hetero_plugin.evaluation.report import figures, markdown, panels, rendering, sources, words
from hetero_plugin.evaluation.report.data import curves, last_mean, pick, read_files, read_run
from hetero_plugin.evaluation.report.schema import warn_unless_as_described

FORMAT = 1
DRAWINGS = (
    "accuracy",
    "dose",
    "differences_noise",
    "differences_arms",
    "training",
    "mismatch",
    "sigma",
)
REWARD = ("critic/score/mean", "critic/rewards/mean", "train/score", "reward")
SIGMA = ("hetero/sigma", "hetero/aqn/sigma", "hetero/aqn_sigma")
GAP = (
    "hetero/rollout_actor_logprob_gap/mean",
    "rollout_corr/kl",
    "training/rollout_probs_diff_mean",
)
MISMATCH = {
    "hetero/rollout_actor_logprob_gap/mean": "mean |Δ log-probability|, rollout against actor",
    "hetero/rollout_actor_logprob_gap/max": "largest |Δ log-probability|",
    "training/rollout_probs_diff_mean": "mean |Δ probability|, rollout against actor",
    "training/rollout_probs_diff_max": "largest |Δ probability|",
    "training/rollout_actor_probs_pearson_corr": "Pearson correlation of probabilities",
    "rollout_corr/kl": "KL(rollout ‖ actor) per token, nats",
}


def build(
    run_dir: str | Path, *, allow_unattested: bool = False, legacy: bool = False
) -> tuple[Path, Path]:
    """Writes ``report.json``, ``report.html`` and ``report.md`` into a run folder.

    Args:
        run_dir: the folder.
        allow_unattested: show results without proof, marked as such.
        legacy: show the old rule's words too, beside its error rates.

    Returns:
        The two paths.

    Raises:
        ResultError: the folder holds no readable evaluation, or can't be written.
        Refused: some result's noise is not attested. The refused report is written first.
    """
    run_dir = Path(run_dir)
    report = assemble(run_dir, allow_unattested=allow_unattested, legacy=legacy)
    return _write(report, run_dir / "report.json", run_dir / "report.html")


def build_of_files(
    paths: Sequence[str | Path], *, allow_unattested: bool = False, legacy: bool = False
) -> tuple[Path, Path]:
    """Writes the report of results files that lie in no run folder, beside the first of them.

    The same in Markdown lies beside the page.

    Args:
        paths: what `hetero-noise eval` wrote. Several are compared, and must be of one question
            file and the same levels. Also what fidelity, sensitivity and dial wrote, beside them.
        allow_unattested: as `build`.
        legacy: as `build`.

    Returns:
        The two paths: ``NAME-report.json`` and ``NAME-report.html``, NAME being the first file's.

    Raises:
        ResultError: a file can't be read, or the page can't be written.
        Refused: as `build`.
    """
    given = [Path(path) for path in paths]
    evaluated = [path for path in given if panels.kind_of(path) == "results"]
    if not evaluated:
        raise results.ResultError(f"{given[0]}: is shown beside results of hetero-noise eval; give "
                                  "a file of these too")  # fmt: skip
    run = {**read_files(evaluated), "panels": panels.read([p for p in given if p not in evaluated])}
    report = _assemble(run, allow_unattested=allow_unattested, legacy=legacy)
    first = evaluated[0]
    name = f"{first.stem}-report"
    return _write(report, first.with_name(f"{name}.json"), first.with_name(f"{name}.html"))


def build_of(run: Mapping[str, Any], json_path: Path) -> tuple[Path, Path]:
    """Writes the report of arms that are read already.

    Args:
        run: as `data.read_run` gives it.
        json_path: the report's; the page lies beside it as ``.html``.

    Returns:
        The two paths.

    Raises:
        ResultError, Refused: as `build`.
    """
    report = _assemble(run, allow_unattested=False, legacy=False)
    return _write(report, json_path, json_path.with_suffix(".html"))


def _write(report: Mapping[str, Any], json_path: Path, html_path: Path) -> tuple[Path, Path]:
    drawings = {} if report["status"] == "REFUSED" else draw(report)
    page = render(report, drawings)
    try:
        # Both pages of one run of this function, whoever else makes them anew.
        with files.locked(json_path, error=results.ResultError, remedy="wait for it"):
            files.write_json(json_path, report)
            files.write_text(html_path, page)
            files.write_text(html_path.with_suffix(".md"), markdown.render(report))
    except OSError as error:
        raise results.ResultError(
            f"{html_path.parent}: the report can't be written: {files.reason(error)}"
        ) from None
    warn_unless_as_described(report, json_path)
    if report["status"] == "REFUSED":
        raise Refused(
            "REFUSED: " + "; ".join(f"{r['arm']}: {r['problem']}" for r in report["refused"])
        )
    return json_path, html_path


def assemble(
    run_dir: Path, *, allow_unattested: bool = False, legacy: bool = False
) -> dict[str, Any]:
    """The report as JSON-able data.

    Raises:
        ResultError: see ``build``.
    """
    return _assemble(read_run(run_dir), allow_unattested=allow_unattested, legacy=legacy)


_TASK = ("task", "task_sha256", "data_source", "total", "scorer", "max_tokens", "decoding")


def _assemble(run: Mapping[str, Any], *, allow_unattested: bool, legacy: bool) -> dict[str, Any]:
    arms, baseline = run["arms"], run["baseline"]
    refused = [
        {"arm": name, "problem": problem}
        for name, arm in arms.items()
        for problem in results.problems(arm["result"])
    ]
    shown = dict(run.get("panels") or panels.read([]))
    refused += shown.pop("problems")
    documents = {name: arm["result"] for name, arm in arms.items()}
    first = next(iter(arms.values()))["result"]["header"]
    # Each was fixed before its first answer; of several the strictest holds for all.
    margin = min(float(arm["result"]["header"].get("margin", 0.02)) for arm in arms.values())
    report: dict[str, Any] = {
        "format": FORMAT,
        "status": "ATTESTED",
        "refused": refused,
        "title": run["settings"].get("title", "Robustness to hardware error"),
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "settings": run["settings"],
        "versions": _versions(arms),
        "attestation": {name: _attestation(arm) for name, arm in arms.items()},
    }
    if refused:
        report["status"] = "UNATTESTED" if allow_unattested else "REFUSED"
        if not allow_unattested:
            return report
    report.update(
        n=first["n"],
        task={key: first.get(key) for key in _TASK},
        differences=results.differences(documents),
        floors=sources.floors(documents, margin),
        sources=sources.table(documents),
        panels=shown,
        levels=[row["level"] for row in next(iter(arms.values()))["result"]["levels"]],
        margin=margin,
        confidence=0.95,
        baseline=baseline,
        arms={name: _arm(arm) for name, arm in arms.items()},
        dose={name: of_accuracy(arm["result"]) for name, arm in arms.items()},
        comparisons=_comparisons(arms, baseline, margin),
        curves={
            "reward": curves(arms, *REWARD)[1],
            "validation_clean": curves(arms, "val-core/*")[1],
            "validation_noisy": curves(arms, "hetero/val_noisy/*")[1],
            "mismatch": dict(zip(("metric", "by_arm"), curves(arms, *GAP), strict=True)),
            "sigma": _sigma(arms),
        },
        mismatch=_mismatch(arms),
    )
    report["summary"] = _summary(report)
    report["legacy"] = _legacy(report["comparisons"]) if legacy else []
    report["limits"] = words.limits(report)
    return report


def _arm(arm: Mapping[str, Any]) -> dict[str, Any]:
    result = arm["result"]
    header = result["header"]
    return {
        "label": arm["label"],
        "model": header.get("model"),
        "model_sha256": header.get("model_sha256"),
        "fingerprint": header.get("fingerprint"),
        "evaluation_spec": header.get("spec"),
        "noise_seed": header.get("seed"),
        "errors": words.errors(header.get("spec")),
        "train": arm["train"],
        "seconds": sum(row.get("seconds", 0.0) for row in result["levels"]),
        "levels": [
            {
                "level": row["level"],
                **row["accuracy"],
                "truncated": row.get("truncated_share"),
                "mean_tokens": row.get("mean_tokens"),
                "also": {
                    rule: other["accuracy"] for rule, other in (row.get("also") or {}).items()
                },
            }
            for row in result["levels"]
        ],
        "realised": result.get("realised"),
    }


def _comparisons(arms: Mapping[str, Any], baseline: str, margin: float) -> list[dict[str, Any]]:
    """The page's comparisons, which are declared by its making: each noisy level with level 0 of
    the same arm, and each arm with the baseline. Holm's adjustment is over all of them.
    """
    rows: list[dict[str, Any]] = []
    for name, arm in arms.items():
        for row in results.within(arm["result"], margin):
            rows.append({"type": "noise", "first": name, "second": name, **row})
    base = arms[baseline]
    for name, arm in arms.items():
        if name == baseline:
            continue
        names = (f"the answers of {base['label']}", f"the answers of {arm['label']}")
        for row in results.between(base["result"], arm["result"], margin, names):
            rows.append({"type": "arms", "first": baseline, "second": name, **row})
    for row, p in zip(rows, stats.holm([r["mcnemar_p"] for r in rows]), strict=True):
        row["p_adjusted"] = p
        row["verdict"] = words.verdict(row)
        one, two = arms[row["first"]]["label"], arms[row["second"]]["label"]
        row["sentence"] = (
            words.within_sentence(one, row, margin)
            if row["type"] == "noise"
            else words.between_sentence(one, two, row, margin)
        )
    return rows


def _legacy(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The old rule's word on each comparison, and how often it errs at the flips observed."""
    return [
        {
            **{key: row[key] for key in ("type", "first", "second", "level", "legacy", "verdict")},
            "equal_called_robust": power.legacy_rates(0.0, psi, row["legacy"]["n"])["robust"],
            "loser_called_robust": power.legacy_rates(-0.03, psi, row["legacy"]["n"])["robust"],
        }
        for row in rows
        for psi in [max(row["discordance"], 0.03)]
    ]


def _attestation(arm: Mapping[str, Any]) -> dict[str, Any]:
    result = arm["result"]
    used = {int(row["session"]) for row in result["levels"]}
    sessions = [s.get("attestation") or {} for i, s in enumerate(result["sessions"]) if i in used]
    return {
        "label": arm["label"],
        "seen": min((s.get("seen", 0) for s in sessions), default=0),
        "of": max((s.get("of", 0) for s in sessions), default=0),
        "passed": not results.problems(result),
        "sessions": sessions,
    }


def _versions(arms: Mapping[str, Any]) -> dict[str, Any]:
    """Versions under which answers were produced; a difference between arms is shown as such."""
    found: dict[str, set[str]] = {}
    for arm in arms.values():
        for session in arm["result"]["sessions"]:
            for name, version in (session.get("versions") or {}).items():
                found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(v)) for name, v in sorted(found.items())} or versions()


def _sigma(arms: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for arm in arms.values():
        curve = pick(arm["series"], *SIGMA)
        if curve is not None and any(value > 0 for value in curve[1]):
            found[arm["label"]] = curve
    return found


def _mismatch(arms: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for key, label in MISMATCH.items():
        values = {arm["label"]: last_mean(arm["series"], key) for arm in arms.values()}
        if any(value is not None for value in values.values()):
            rows.append({"metric": key, "label": label, "values": values})
    return rows


def _summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """The page's words: a few lines first, then every comparison as a sentence."""
    rows, arms = report["comparisons"], report["arms"]
    details = []
    for name, arm in arms.items():
        own = [row for row in rows if row["type"] == "noise" and row["first"] == name]
        details.append({"about": arm["label"], "sentences": [row["sentence"] for row in own]})
    against = [row["sentence"] for row in rows if row["type"] == "arms"]
    details.append({"about": "between arms", "sentences": against})
    return {"headlines": words.headlines(report), "details": details}


def draw(report: Mapping[str, Any]) -> dict[str, str]:
    """The page's figures as inline SVG, by name."""
    order = [arm["label"] for arm in report["arms"].values()]
    drawings = {
        "accuracy": figures.accuracy_by_level(
            report["levels"], {arm["label"]: arm["levels"] for arm in report["arms"].values()}
        )
    }
    doses = {
        report["arms"][name]["label"]: found for name, found in report["dose"].items() if found
    }
    if doses:
        drawings["dose"] = figures.dose(doses, order)
    index = {name: i for i, name in enumerate(report["arms"])}
    for kind in ("noise", "arms"):
        rows = [
            {
                "label": difference_label(report, row),
                "series": index[row["second"]],
                **{key: row[key] for key in ("difference", "low", "high")},
            }
            for row in report["comparisons"]
            if row["type"] == kind
        ]
        if rows:
            name = f"differences_{kind}"
            drawings[name] = figures.differences(rows, report["margin"], name)
    found = report["curves"]
    panels = [("mean training reward", found["reward"], True)] if found["reward"] else []
    for title, key in (
        ("validation accuracy, clean", "validation_clean"),
        ("validation accuracy, noisy", "validation_noisy"),
    ):
        if any(len(curve[0]) > 1 for curve in found[key].values()):
            panels.append((title, found[key], False))
    if panels:
        drawings["training"] = figures.training(panels[:3], order)
    gap = found["mismatch"]
    if gap["by_arm"]:
        title = MISMATCH.get(gap["metric"], gap["metric"])
        drawings["mismatch"] = figures.training([(title, gap["by_arm"], True)], order, "mismatch")
    if found["sigma"]:
        drawings["sigma"] = figures.schedule(found["sigma"], order)
    return drawings


def difference_label(report: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """A comparison in a few words."""
    first, second = (report["arms"][row[key]]["label"] for key in ("first", "second"))
    level = words.level(row["level"])
    if row["type"] == "noise":
        return f"{second}: {level}"
    return f"{second} against {first}, {level}"


def render(report: Mapping[str, Any], drawings: Mapping[str, str]) -> str:
    """The page: one HTML document that needs no network and no script."""
    every = {**dict.fromkeys(DRAWINGS, ""), **drawings}
    return (
        rendering.environment().get_template("report.html.j2").render(report=report, drawings=every)
    )
