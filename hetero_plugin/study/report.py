"""A study's report as JSON, HTML and Markdown, and the pages of its arms seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hetero_plugin.attestation import Refused
from hetero_plugin.evaluation import files, results
from hetero_plugin.evaluation.report import data, figures, page, rendering
from hetero_plugin.study import markdown, summary
from hetero_plugin.study.resolve import Resolved
from hetero_plugin.study.results import assemble
from hetero_plugin.verl import metrics

__all__ = ["folder_of", "write"]


def folder_of(runs: Sequence[Resolved]) -> Path:
    """The folder of a study's runs of one size, and of its report."""
    return runs[0].folder.parents[1]


def write(runs: Sequence[Resolved]) -> tuple[Path, Path]:
    """Writes the report of what is finished.

    Args:
        runs: of one study at one place.

    Returns:
        ``report.json`` and ``report.html``, in the folder of the study's runs; ``report.md`` is
        beside them.

    Raises:
        ResultError: nothing is evaluated yet, or a file can't be read or written.
        Refused: no evaluation's error is attested. The report says so, and is written first.
    """
    report, folder = assemble(runs), folder_of(runs)
    if not report["panels"] and not report["refused"]:
        raise results.ResultError(
            f"{folder}: nothing is evaluated yet; hetero-noise study run goes on with it"
        )
    report["pages"] = [path.name for path in _pages(runs, report, folder)]
    drawings = [_drawing(panel) for panel in report["panels"]]
    text = (
        rendering.environment()
        .get_template("study.html.j2")
        .render(report=report, drawings=drawings)
    )
    paths = folder / "report.json", folder / "report.html"
    with files.locked(paths[0], error=results.ResultError, remedy="wait for it"):
        files.write_json(paths[0], report)
        files.write_text(paths[1], text)
        files.write_text(folder / "report.md", markdown.render(report))
    if not report["panels"]:
        raise Refused(
            "REFUSED: " + "; ".join(f"{r['file']}: {r['problem']}" for r in report["refused"])
        )
    return paths


def _drawing(panel: dict[str, Any]) -> str:
    return figures.accuracy_by_level(panel["levels"], panel["accuracy"])


def _pages(runs: Sequence[Resolved], report: dict[str, Any], folder: Path) -> list[Path]:
    """The page of each training seed whose arms are all evaluated, after its last step."""
    made = []
    refused = {row["file"] for row in report["refused"]}
    for seed in report["seeds"]:
        arms = {}
        for run in (one for one in runs if one.seed == seed):
            last = run.study.checkpoints(run.steps)[-1]
            path = run.evaluated_at(last, run.evaluation.under[0])
            shown = str(path.relative_to(run.study.output.absolute()))
            if path.is_file() and shown not in refused:
                arms[run.arm] = _arm(run, results.load(path))
        levels = {tuple(row["level"] for row in arm["result"]["levels"]) for arm in arms.values()}
        if not arms or len(levels) > 1:
            continue
        settings = {"title": f"{report['title']}, training seed {seed}", "seed": seed}
        baseline = "clean" if "clean" in arms else next(iter(arms))
        found = {"settings": settings, "baseline": baseline, "arms": arms}
        made.append(page.build_of(found, folder / f"seed-{seed}.json")[1])
    return made


def _arm(run: Resolved, document: dict[str, Any]) -> dict[str, Any]:
    noise = None if run.noise is None else run.noise.fingerprint
    return {
        "label": run.arm,
        "result": document,
        "train": {"seed": run.seed, "fingerprint": noise},
        "series": data.read_metrics(*metrics.attempts(run.folder / summary.METRICS)),
    }
