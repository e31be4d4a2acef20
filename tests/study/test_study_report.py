"""A study's report from simulated evaluations: what is compared, adjusted, left out. Seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from toy import simulate_result

from hetero_plugin.attestation import Refused
from hetero_plugin.evaluation import results
from hetero_plugin.evaluation.variance import crossed
from hetero_plugin.study import read
from hetero_plugin.study.report import write
from hetero_plugin.study.resolve import Resolved, resolve_all
from hetero_plugin.study.results import assemble

STUDY = """
name: it
about: a test
model: {path: some/model, size: tiny}
data: {train: train.parquet, val: val.parquet}
steps: 4
seeds: [0, 1, 2]
trainer: {data.train_batch_size: 8}
where: node
places: {node: {gpus: 2}}
arms:
  clean: {about: no error, noise: null}
  noise: {about: error, noise: {preset: linear}}
  late: {about: not run, noise: {preset: linear}}
evaluation:
  levels: [0, 0.1]
  under: [qerl-fp4]
  draws: 2
  contrasts: [[clean, noise], [noise, late]]
"""


def _document(seed: int, accuracies: dict[float, float], dead: tuple[str, ...] = ()) -> Any:
    """Results with a second draw at the noisy level."""
    made = simulate_result(seed=seed, accuracies=accuracies, dead=dead)
    other = simulate_result(seed=seed + 100, accuracies=accuracies)
    made["draws"] = [{**row, "draw": 1, "sample": 0} for row in other["levels"] if row["level"] > 0]
    return made


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Resolved]:
    """Two of three arms evaluated, the noisy one better at 10 % by eight points."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it.yaml").write_text(STUDY)
    found = resolve_all(read(tmp_path / "it.yaml"))
    at = {"clean": {0.0: 0.8, 0.1: 0.6}, "noise": {0.0: 0.8, 0.1: 0.68}}
    for run in found:
        if run.arm in at:
            path = run.evaluated_at(4, "qerl-fp4")
            path.parent.mkdir(parents=True, exist_ok=True)
            document = _document(run.seed, at[run.arm])
            results.write_json(path, document)
    return found


def test_contrasts_are_paired_over_seeds_draws_and_questions(runs: list[Resolved]) -> None:
    report = assemble(runs)
    assert report["status"] == "ATTESTED" and report["declared"] == 2
    [panel] = report["panels"]
    clean, noisy = panel["contrasts"]
    assert (clean["level"], clean["verdict"]) == (0.0, "EQUIVALENT")
    assert (noisy["level"], noisy["verdict"]) == (0.1, "IMPROVED")
    assert noisy["seeds"] == 3 and noisy["draws"] == 2 and clean["draws"] == 1
    # By hand, from the files.
    loaded = {(run.arm, run.seed): results.load(run.evaluated_at(4, "qerl-fp4"))
              for run in runs if run.arm != "late"}  # fmt: skip
    y = np.array(
        [
            [
                np.subtract(
                    results.pass_row(loaded["noise", seed], 0.1, draw)["outcomes"],  # type: ignore[index]
                    results.pass_row(loaded["clean", seed], 0.1, draw)["outcomes"],  # type: ignore[index]
                )
                for draw in range(2)
            ]
            for seed in range(3)
        ]
    )
    found = crossed(y)
    assert (noisy["value"], noisy["low"], noisy["high"]) == (found.value, found.low, found.high)
    assert noisy["value"] == pytest.approx(0.08, abs=0.02)
    # The old rule, by hand: the first draw's first 200 questions of each seed.
    firsts = [float(y[seed, 0, :200].mean()) for seed in range(3)]
    words = ["robust" if abs(d) < 0.01 else "not robust" if abs(d) > 0.03 else "moderately robust"
             for d in firsts]  # fmt: skip
    assert noisy["legacy"] == {word: words.count(word) for word in set(words)}
    assert noisy["p"] <= noisy["p_adjusted"] <= 2 * noisy["p"] + 1e-12, "Holm over two"
    assert [name.split(",")[0] for name in report["missing"]] == [
        f"late/seed-{s}" for s in range(3)
    ]


def test_the_page_says_it_and_each_seed_has_its_own(runs: list[Resolved]) -> None:
    json_path, html_path = write(runs)
    page = html_path.read_text(encoding="utf-8")
    assert "IMPROVED" in page and "<svg" in page and "late/seed-2" in page
    assert json.loads(json_path.read_text())["pages"] == [f"seed-{s}.html" for s in range(3)]
    text = (json_path.parent / "report.md").read_text(encoding="utf-8")
    assert "| noise − clean | 10 % error | +" in text and text.count("IMPROVED") == 1
    assert "training seed 1" in (json_path.parent / "seed-1.html").read_text(encoding="utf-8")


def test_what_is_not_attested_is_left_out_by_name(runs: list[Resolved]) -> None:
    one = next(run for run in runs if run.arm == "noise" and run.seed == 1)
    path = one.evaluated_at(4, "qerl-fp4")
    results.write_json(path, _document(1, {0.0: 0.8, 0.1: 0.9}, dead=("layer.1",)))
    report = assemble(runs)
    assert report["refused"][0]["file"].endswith("noise/seed-1/eval-step4-qerl-fp4.json")
    assert report["status"] == "INCOMPLETE" and report["panels"][0]["contrasts"][1]["seeds"] == 2
    for run in runs:
        if run.arm != "late":
            document = _document(1, {0.0: 0.8, 0.1: 0.9}, dead=("layer.1",))
            results.write_json(run.evaluated_at(4, "qerl-fp4"), document)
    with pytest.raises(Refused, match=r"REFUSED: it/tiny/clean/seed-0/eval-step4"):
        write(runs)


def test_accuracy_at_the_floor_bears_no_verdict(runs: list[Resolved]) -> None:
    for run in runs:
        if run.arm != "late":
            document = _document(run.seed, {0.0: 0.0, 0.1: 0.0})
            results.write_json(run.evaluated_at(4, "qerl-fp4"), document)
    rows = assemble(runs)["panels"][0]["contrasts"]
    assert {row["verdict"] for row in rows} == {"NO VERDICT"} and rows[0]["no_verdict"]


def test_nothing_evaluated_is_an_error_that_says_what_to_do(
    runs: list[Resolved], tmp_path: Path
) -> None:
    for run in runs:
        run.evaluated_at(4, "qerl-fp4").unlink(missing_ok=True)
    with pytest.raises(results.ResultError, match="nothing is evaluated yet; hetero-noise study"):
        write(runs)
