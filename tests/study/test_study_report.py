"""A study's report from simulated evaluations: what is compared, adjusted, left out. Seconds."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from toy import simulate_result
from typer.testing import CliRunner

from hetero_plugin.attestation import Refused
from hetero_plugin.cli import app
from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation import results
from hetero_plugin.evaluation.variance import crossed
from hetero_plugin.study import read, record
from hetero_plugin.study.report import write
from hetero_plugin.study.resolve import Resolved, resolve_all
from hetero_plugin.study.results import assemble
from hetero_plugin.study.run import RECORD, chain, identity

STUDY = """
name: it
about: a test
model: {path: some/model, size: tiny}
data: {train: train.parquet, val: val.parquet, test: test.parquet}
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
    made["header"] |= {"seed": 0, "draws": 2}
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
    assert report["unfinished"] == ["late (training seeds 0, 1, 2; step 4, qerl-fp4)"]


def test_the_page_says_it_and_each_seed_has_its_own(runs: list[Resolved]) -> None:
    json_path, html_path = write(runs)
    page = html_path.read_text(encoding="utf-8")
    assert "IMPROVED" in page and "<svg" in page
    assert "late (training seeds 0, 1, 2; step 4, qerl-fp4)" in page
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
    old = runs[0].folder.parents[1] / "report.md"
    old.write_text("IMPROVED")
    with pytest.raises(Refused, match=r"REFUSED: it/tiny/clean/seed-0/eval-step4"):
        write(runs)
    text = old.read_text(encoding="utf-8")
    assert "IMPROVED" not in text and "REFUSED. Training seeds" in text and "Left out" in text


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


def test_a_contrast_says_over_which_seeds_it_is(runs: list[Resolved]) -> None:
    """Pairs are of one seed; where arms have others, it is told, and where none is common too."""
    at = {(run.arm, run.seed): run.evaluated_at(4, "qerl-fp4") for run in runs}
    at["noise", 2].unlink()
    report = assemble(runs)
    assert {row["seeds"] for row in report["panels"][0]["contrasts"]} == {2}
    said = "noise against clean: over training seeds 0, 1 alone, of 0, 1, 2: the others lack one"
    assert any(said in line for line in report["limits"])
    at["noise", 1].unlink()
    at["clean", 0].unlink()
    write(runs)
    report = assemble(runs)
    assert report["panels"][0]["contrasts"] == [] and report["declared"] == 0
    pairs = "noise against clean, late against noise"
    said = f"Step 4, qerl-fp4: {pairs}: not compared: there is no training seed of which both"
    assert any(line.startswith(said) for line in report["limits"])


def test_an_arm_of_another_study_is_told_not_to_be_compared(
    runs: list[Resolved], tmp_path: Path
) -> None:
    (tmp_path / "other.yaml").write_text(STUDY)
    text = STUDY.replace("[noise, late]", "[noise, other/clean]")
    (tmp_path / "it.yaml").write_text(text)
    report = assemble(resolve_all(read(tmp_path / "it.yaml")))
    assert any("other/clean is of another study" in line for line in report["limits"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("evaluation.margin=0.3", "margin: 0.02 there, 0.3 in the study"),
        ("evaluation.questions=512", "n: 1024 there, 512 in the study"),
        ("evaluation.seed=5", "seed: 0 there, 5 in the study"),
        ("data.test=other.parquet", "questions: test.parquet there, other.parquet in the study"),
        ("evaluation.under=[linear]", ""),
        ("evaluation.levels=[0, 0.1, 0.2]", ""),
        ("trainer.data.train_batch_size=4", "settings.data.train_batch_size: 8 there, 4 here"),
        ("steps=4", None),
        ("model.path=moved/model", None),
    ],
)
def test_another_studys_evaluations_bear_no_verdict(
    runs: list[Resolved], tmp_path: Path, change: str, words: str | None
) -> None:
    """Empty: it is missing; None: it counts, as nothing that decides it is other."""
    for run in runs:
        results.write_json(run.folder / RECORD, identity(run))
    found = resolve_all(read(tmp_path / "it.yaml", [change]))
    report = assemble(found)
    if words is None:
        assert report["status"] == "ATTESTED" and report["declared"] == 2
    elif words:
        assert len(report["refused"]) == 6 and report["panels"] == []
        assert all(words in row["problem"] for row in report["refused"])
    else:
        assert len(report["missing"]) == 9 and report["panels"] == []


def test_the_file_of_another_evaluation_is_left_out(runs: list[Resolved]) -> None:
    at = {(run.arm, run.seed): run.evaluated_at(4, "qerl-fp4") for run in runs}
    [one] = [run for run in runs if (run.arm, run.seed) == ("noise", 1)]
    _, merge, evaluate = chain(one)
    record.finish(merge.record, {}, {}, [], 1.0)
    record.finish(evaluate.record, evaluate.inputs(), {}, [at["noise", 1]], 1.0)
    assert assemble(runs)["refused"] == []
    before = at["noise", 1].read_text()
    shutil.copy(at["clean", 1], at["noise", 1])
    [refused] = assemble(runs)["refused"]
    assert "noise/seed-1" in refused["file"] and "eval-step4.done.json" in refused["problem"]
    at["noise", 1].write_text(before)
    assert assemble(runs)["refused"] == []
    trained_anew = one.folder / "weights"
    trained_anew.write_text("other")
    record.finish(merge.record, {}, {}, [trained_anew], 1.0)
    [refused] = assemble(runs)["refused"]
    assert "is of other weights or another evaluation" in refused["problem"]


def test_an_evaluation_under_another_specification_is_left_out(runs: list[Resolved]) -> None:
    path = runs[0].evaluated_at(4, "qerl-fp4")
    document = results.load(path)
    document["header"]["spec"] = {"preset": "all-ops"}
    results.write_json(path, document)
    [refused] = assemble(runs)["refused"]
    assert "specification: not that of qerl-fp4" in refused["problem"]


def test_levels_are_those_that_the_study_asks_for(runs: list[Resolved]) -> None:
    """One file has a level more, as after a study that asked for it."""
    document = _document(0, {0.0: 0.8, 0.05: 0.7, 0.1: 0.6})
    results.write_json(runs[0].evaluated_at(4, "qerl-fp4"), document)
    report = assemble(runs)
    assert report["panels"][0]["levels"] == [0.0, 0.1] and report["declared"] == 2


def test_metrics_that_are_no_numbers_are_told_and_left_out(runs: list[Resolved]) -> None:
    rows = "".join(
        f'{{"step": {step}, "data": {{"critic/rewards/mean": {value}}}}}\n'
        for step, value in ((1, "0.25"), (2, "NaN"), (3, "Infinity"), (4, '"x"'), (5, "0.5"))
    )
    runs[0].folder.joinpath("metrics.jsonl").write_text(rows)
    path, _ = write(runs)
    report = json.loads(path.read_text())
    assert report["training"][0]["values"] == {"clean": 0.5}
    said = "clean/seed-0: critic/rewards/mean is no finite number at 3 of 5 steps (2, 3, 4)"
    assert any(line.startswith(said) for line in report["limits"])


def test_a_training_that_is_not_finished_is_in_no_mean(runs: list[Resolved]) -> None:
    """The last quarter of half a training is not that of a whole one."""
    for run, steps, reward in zip(runs[:2], (4, 3), (0.5, 0.9), strict=True):
        rows = "".join(
            f'{{"step": {step}, "data": {{"critic/rewards/mean": {reward}}}}}\n'
            for step in range(1, steps + 1)
        )
        run.folder.mkdir(parents=True, exist_ok=True)
        run.folder.joinpath("metrics.jsonl").write_text(rows)
    assert [run.steps for run in runs[:2]] == [4, 4]
    path, _ = write(runs)
    report = json.loads(path.read_text())
    assert report["training"][0]["values"] == {runs[0].arm: 0.5}
    assert report["trained"] == [runs[0].arm] and len(report["arms"]) == 3
    assert f"| {runs[0].arm} |\n|---|---|" in path.with_suffix(".md").read_text()


def test_a_report_of_a_part_is_refused(runs: list[Resolved], tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["study", "report", str(tmp_path / "it.yaml"), "--arm", "noise"])
    assert said.exit_code != 0 and "takes no --arm" in str(said.exception) + said.output


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("metrics.jsonl", '{"step": 1, "data": {}}\n{"st\n', r"metrics\.jsonl, line 2: not a line"),
        ("metrics.jsonl", "[1]\n", r"metrics\.jsonl, line 1: not a line of metrics"),
        ("metrics.jsonl", '{"step": 1.5, "data": {}}\n', "its step is no whole number"),
        ("summary.json", '{"reward": {', r"summary\.json: not the summary of a run"),
        ("summary.json", "[]", r"summary\.json: not the summary of a run"),
        ("summary.json", "{}", r"summary\.json: not the summary of a run \(KeyError"),
    ],
)
def test_a_damaged_file_is_named(runs: list[Resolved], name: str, text: str, words: str) -> None:
    runs[0].folder.joinpath(name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        write(runs)
