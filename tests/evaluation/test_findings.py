"""docs/results.md of evaluations' files: numbers, floors, commands, refusals. About 8 s."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from toy import simulate_result

from hetero_plugin.evaluation import results
from hetero_plugin.evaluation.records import ResultError
from hetero_plugin.evaluation.specs import evaluation_spec
from scripts import engines, real
from scripts import results as page
from scripts.real import MEASURES, section

SPEC = json.loads(evaluation_spec("linear", 3, 0.2).canonical)
LEVELS = {0.0: 0.7, 0.02: 0.69, 0.05: 0.64, 0.1: 0.5, 0.2: 0.2}


def span(value: float) -> dict[str, Any]:
    return {"value": value, "low": 0.9 * value, "high": 1.1 * value}


def answers() -> dict[str, Any]:
    """Strictly all wrong, as of a model that says "The answer is 72."; by the flexible rule not."""
    document = simulate_result(seed=1, accuracies=LEVELS, n=300)
    document["header"].update(
        model="/somewhere/weights", task="/somewhere/test.jsonl", spec=SPEC, seed=3, draws=2,
        max_tokens=320, dtype="bfloat16", scorer="strict", decoding="greedy", total=1319,
        data_source="openai/gsm8k",
    )  # fmt: skip
    again = simulate_result(seed=9, accuracies=LEVELS, n=300)["levels"]
    document["draws"] = [{**row, "draw": 1, "sample": 0} for row in again if row["level"]]
    document["control"] = json.loads(json.dumps(document["levels"][0]))
    for row in [*document["levels"], *document["draws"], document["control"]]:
        row["also"] = {"flexible": {key: row[key] for key in ("accuracy", "outcomes")}}
        row["outcomes"] = [0] * 300
        row["accuracy"] = {**row["accuracy"], "hits": 0, "value": 0.0, "low": 0.0, "high": 0.012}
    return document


def about(record: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "engine": "vllm-compiled", "model": "/somewhere/weights", "model_sha256": "ab" * 32,
        "text": "/somewhere/text.txt", "context": 16, "spec": SPEC, "seed": 3, "step": 0,
        "fingerprint": record["fingerprint"], "dtype": "bfloat16", "draws": 2, **more,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    document = answers()
    record = document["sessions"][0]["attestation"]
    results.write_json(tmp_path / "eval.json", document)
    agree = {"agree": span(0.9), "of_300": span(270.0), "tokens_to_first": span(10.0),
             "detector": {"threshold": 2, "false_alarms": 0.001, "runs": 13, "rate": span(0.8),
                          "auc": span(0.85)}}  # fmt: skip
    panel = {"measures": {name: span(0.25) for name in MEASURES}, "sampled": agree}
    clean = {name: span(1e-6) for name in MEASURES}
    floor = {"tokens": 480, "windows": 32, "measures": clean, "sampled": None}
    results.write_json(
        tmp_path / "fidelity.json",
        about(record, attestation=record, tokens_by_window=[15] * 32, floor=floor,
              levels=[{"level": 0.05, **panel}]),
    )  # fmt: skip
    sites = [
        {"name": f"model.layers.{i}.q", "rank": i + 1, "rank_low": 1, "rank_high": 3,
         "kl": span(0.1 / (i + 1)), "loss": span(0.1), "share": 0.4, "within_floor": i == 1}
        for i in range(2)
    ]  # fmt: skip
    results.write_json(
        tmp_path / "map" / "sensitivity.json",
        about(record, tokens=512, windows=32, predicted_tokens=480, sites=sites,
              by_kind={"linear": {"kl": span(0.3)}}, all={"kl": span(0.4)},
              floor={"kl": span(1e-6)}, sessions=[{"attestation": record}],
              suggestion={"budget": {"sites": None, "share": 0.6},
                          "keep_clean": ["model.layers.0.q"],
                          "sentence": "keeping 1 of 2 sites clean recovers 60 %"}),
    )  # fmt: skip
    results.write_json(
        tmp_path / "dial.json",
        about(record, attestation=record, tokens=512, windows=32, predicted_tokens=480,
              want={"measure": "kl", "value": 0.015}, scale=span(0.04), found_fingerprint="ff00",
              found_spec={}, measures={"kl": span(0.015), "loss": span(0.01)},
              in_fresh_draws={"kl": span(0.016), "loss": span(0.01)}, floor={"kl": span(1e-6)}),
    )  # fmt: skip
    results.write_json(
        tmp_path / "dose.json",
        {"kind": "kl", "level": span(0.03), "points": [], "curve": [],
         "sentence": "KL has reached 0.01 at 3.0 % error"},
    )  # fmt: skip
    (tmp_path / "other.json").write_text("[1, 2]")
    return tmp_path


def test_a_folder_becomes_a_finding(folder: Path) -> None:
    text = section(folder, "Real weights")
    for words in (
        "## Real weights", "n = 300 of 1,319 questions of openai/gsm8k", "4 of 4 sites attested",
        "NO VERDICT", "the flexible rule", "DEGRADED", "0 of 300 outcomes differ", "- Dose: ",
        "noise draws", "0.25 [0.225, 0.275]", "1e-06", "270.0 [243.0, 297.0] of 300 tokens agree",
        "1 (1 to 3)", "in the floor", "keeping 1 of 2 sites clean", "0.04 [0.036, 0.044] gives",
        "KL has reached 0.01 at 3.0 % error.",
    ):  # fmt: skip
        assert words in text, words
    assert "/somewhere" not in text, "no folder of the machine"
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("hetero-noise ")]
    assert [words[1] for words in commands] == ["eval", "fidelity", "dial", "sensitivity"]
    for words in commands:
        assert words[words.index("--preset") + 1] == "linear"
        assert words[words.index("--seed") + 1] == "3"
    assert commands[0][commands[0].index("--noise-seeds") + 1] == "2"
    assert "--reward" not in commands[0]
    assert real._reward({"scorer": "rule.py:score (sha256 e6476ac547af3406)"}) == "rule.py:score"
    assert commands[3][commands[3].index("--budget") + 1] == "60%"
    assert commands[3][commands[3].index("--scale") + 1] == "0.2"
    # Strict first, with no verdict; the rule that was not fixed beforehand second, and said so.
    strict, flexible = text.split("The same answers by the flexible rule", 1)
    assert "DEGRADED" not in strict and "exploration" in flexible


def test_the_page_is_written(folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.md"
    study.write_text("## Study one\n\nfound\n")
    out = tmp_path / "results.md"
    page.main([study], [f"Real weights={folder}"], out)
    text = out.read_text()
    assert text.index("# Results") < text.index("## Study one") < text.index("## Real weights")
    page.main([study], out=out, note=["Read this before."])
    assert "Read this before.\n\n## Study one" in out.read_text()
    with pytest.raises(typer.BadParameter, match="give Markdown"):
        page.main(None, None, out)
    with pytest.raises(typer.BadParameter, match="there is no file"):
        page.main([tmp_path / "none.md"], None, out)
    with pytest.raises(typer.BadParameter, match="no such folder"):
        page.main(None, [str(tmp_path / "nowhere")], out)


def test_what_is_not_attested_is_no_finding(folder: Path) -> None:
    for name in ("eval.json", "fidelity.json", "map/sensitivity.json", "dial.json"):
        before = (folder / name).read_text()
        (folder / name).write_text(before.replace('"seen": 4', '"seen": 3'))
        with pytest.raises(ValueError, match=f"{Path(name).name}: its noise is not attested"):
            section(folder)
        (folder / name).write_text(before)
    (folder / "map").rename(folder / "gone")
    empty = folder / "gone" / "deep"
    empty.mkdir()
    with pytest.raises(ResultError, match="holds no file"):
        section(empty)


def test_verdicts_of_two_engines_side_by_side(tmp_path: Path) -> None:
    reports = {}
    for engine, seed in (("vllm", 1), ("hf", 2)):
        for arm, loss in (("clean", 0.2), ("noise", 0.0)):
            accuracies = {0.0: 0.7, 0.1: 0.7 - loss}
            document = simulate_result(seed=seed, accuracies=accuracies, n=400)
            document["header"]["model"] = arm
            results.write_json(tmp_path / engine / f"{arm}.json", document)
        reports[engine] = engines.reported(tmp_path / engine)
    text, apart = engines.compare(reports)
    assert apart == 0 and "4 of 4 verdicts agree (n = 400, 400" in text
    assert text.count("DEGRADED") == 2 and "clean against its clean answers, 10 % error" in text
    assert "noise against clean, 10 % error" in text and "clean 4 of 4" in text
    changed = json.loads(json.dumps(reports))
    changed["hf"]["comparisons"][0]["verdict"] = "IMPROVED"
    text, apart = engines.compare(changed)
    assert apart == 1 and "| NO |" in text and "3 of 4" in text
    del changed["hf"]["comparisons"][0]
    with pytest.raises(ValueError, match="not the same comparisons"):
        engines.compare(changed)
    with pytest.raises(ResultError, match="holds no results"):
        engines.reported(tmp_path)
