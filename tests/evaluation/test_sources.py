"""Several seeds, draws and samples, the A/A floor and the panels, on the report's page. Seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import simulate_result

from hetero_plugin.evaluation import results
from hetero_plugin.evaluation.report import page as report
from hetero_plugin.evaluation.report import sources


def with_draws(seed: int, **more: Any) -> dict[str, Any]:
    """Simulated results of three draws, and a control in which two outcomes differ."""
    accuracies = {0.0: 0.7, 0.1: 0.5}
    document = simulate_result(seed=seed, accuracies=accuracies, n=200, **more)
    for draw in (1, 2):
        row = simulate_result(seed=seed + 50 * draw, accuracies={0.1: 0.5}, n=200)["levels"][0]
        document.setdefault("draws", []).append({**row, "draw": draw, "sample": 0})
    again = json.loads(json.dumps(document["levels"][0]))
    right = [i for i, value in enumerate(again["outcomes"]) if value][:2]
    for i in right:
        again["outcomes"][i] = 0
    again["accuracy"]["hits"] -= 2
    document["control"] = again
    return document


def test_the_page_names_sources_and_floor(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        results.write_json(tmp_path / f"aqn.seed-{seed}.json", with_draws(seed))
    paths = sorted(tmp_path.glob("aqn.*.json"))
    built, page = report.build_of_files(paths)
    found = json.loads(built.read_text())
    rows = {(row["level"], row["of"]): row for row in found["sources"]}
    assert set(rows) == {(0.0, "accuracy"), (0.1, "accuracy"), (0.1, "difference")}
    lost = rows[0.1, "difference"]
    counts = {"training seeds": 3, "noise draws": 3, "sampled answers": 1, "questions": 200}
    assert lost["arm"] == "aqn" and lost["counts"] == counts
    outcomes = [
        [row["outcomes"] for row in (document["levels"][1], *document["draws"])]
        for document in map(results.load, paths)
    ]
    clean = [results.load(path)["levels"][0]["outcomes"] for path in paths]
    values = np.array(outcomes, float) - np.array(clean, float)[:, None]
    assert lost["value"] == pytest.approx(values.mean())
    assert lost["low"] < lost["value"] < lost["high"]
    text = page.read_text()
    assert "Where the variance comes from" in text and "training seeds" in text
    assert "2 of 200 outcomes differ (−1.0 points)" in text and "2 → 0" in text
    limits = " ".join(found["limits"])
    assert "of the first of 3 draws" in limits
    assert "Each arm is one" not in limits and "with one draw" not in limits


def test_outcomes_that_are_all_alike_have_no_interval() -> None:
    document = with_draws(1)
    for row in (*document["levels"], *document["draws"]):
        row["outcomes"] = [0] * len(row["outcomes"])
    rows = sources.table({"a": document})
    assert rows and all(row["low"] is row["high"] is None for row in rows)
    assert all("no interval" in row["sentence"] for row in rows)


def test_names_of_arms() -> None:
    assert sources.arm_of("aqn.seed-3") == sources.arm_of("aqn-seed-4") == "aqn"
    assert sources.arm_of("seed-3.linear") == "linear" and sources.arm_of("seed-1") == "seed-1"


def test_a_draw_that_one_seed_lacks_is_left_out() -> None:
    documents = {f"a.seed-{seed}": with_draws(seed) for seed in (1, 2)}
    documents["a.seed-2"]["draws"].pop()
    rows = sources.table(documents)
    assert {row["counts"]["noise draws"] for row in rows if row["level"]} == {2}


def panel_of(record: dict[str, Any], kind: str) -> dict[str, Any]:
    """What a command writes, as small as it can be."""
    one = {"value": 0.1, "low": 0.05, "high": 0.2}
    about = {"engine": "e", "dtype": "bfloat16", "model": "m", "text": "t.txt",
             "fingerprint": record["fingerprint"], "attestation": record}  # fmt: skip
    if kind == "dial":
        return {**about, "found_spec": {}, "found_fingerprint": "ff", "draws": 4, "monotone": True,
                "want": {"measure": "kl", "value": 0.01}, "scale": one,
                "measures": {"kl": one}, "in_fresh_draws": {"kl": one},
                "floor": {"kl": one}}  # fmt: skip
    if kind == "sensitivity":
        site = {"name": "layers.0.q_proj", "rank": 1, "rank_low": 1, "rank_high": 1, "kl": one,
                "loss": one, "share": 1.0, "within_floor": False}  # fmt: skip
        about.pop("attestation")
        return {**about, "sessions": [{"attestation": record}], "sites": [site],
                "by_kind": {"linear": {"kl": one}}, "all": {"kl": one}, "floor": {"kl": one},
                "suggestion": {"sentence": "keeping 1 of 1",
                               "keep_clean": ["layers.0.q_proj"]}}  # fmt: skip
    measures = dict.fromkeys(
        ("kl_mean", "kl_99", "same_top", "delta_logp_rms", "perplexity_ratio", "ratio_out"), one
    )
    return {**about, "tokens_by_window": [9], "levels": [{"level": 0.05, "measures": measures}],
            "floor": {"tokens": 9, "measures": measures}}  # fmt: skip


def test_panels_on_the_page(tmp_path: Path) -> None:
    document = simulate_result(seed=1, accuracies={0.0: 0.7, 0.1: 0.5}, n=100)
    results.write_json(tmp_path / "eval.json", document)
    record = document["sessions"][0]["attestation"]
    paths = [tmp_path / "eval.json"]
    for kind in ("dial", "sensitivity", "fidelity"):
        paths.append(tmp_path / f"{kind}.json")
        results.write_json(paths[-1], panel_of(record, kind))
    built, page = report.build_of_files(paths)
    text = page.read_text()
    for words in ("Fidelity: fidelity.json", "Sensitivity: sensitivity.json", "Dial: dial.json",
                  "layers.0.q_proj", "gives kl = 0.01", "Keeping 1 of 1"):  # fmt: skip
        assert words in text, words
    plain = page.with_suffix(".md").read_text()
    for words in ("## Verdicts", "## Accuracy, n = 100", "10 % error", "## Fidelity: fidelity.json",
                  "`layers.0.q_proj`", "gives kl = 0.01", "keeping 1 of 1", "4 of 4 sites",
                  "## What this can't show", "lost / won"):  # fmt: skip
        assert words in plain, words
    assert json.loads(built.read_text())["panels"]["dial"][0]["want"]["measure"] == "kl"
    with pytest.raises(results.ResultError, match="beside results of hetero-noise eval"):
        report.build_of_files(paths[1:])
    unproven = panel_of(record, "dial")
    unproven["attestation"] = {**record, "seen": 1}
    results.write_json(tmp_path / "dial.json", unproven)
    with pytest.raises(report.Refused, match=r"dial\.json"):
        report.build_of_files(paths)
    broken = panel_of(record, "fidelity")
    del broken["floor"]["measures"]["kl_99"]
    results.write_json(tmp_path / "fidelity.json", broken)
    with pytest.raises(results.ResultError, match="no whole result of fidelity"):
        report.build_of_files(paths)
