"""The results file: resuming, refusing another run's, comparing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy import FINGERPRINT, NAMES, simulate_result

from hetero_plugin import attestation
from hetero_plugin.evaluation import results

ACCURACIES = {0.0: 0.6, 0.05: 0.5}


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    document = simulate_result(seed=1, accuracies=ACCURACIES)
    results.write_json(tmp_path / "a.json", document)
    assert results.load(tmp_path / "a.json") == json.loads(json.dumps(document))
    assert not list(tmp_path.glob("*.partial"))
    assert results.problems(results.load(tmp_path / "a.json")) == []


def test_resume_takes_over_the_same_run_only(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    document = simulate_result(seed=1, accuracies={0.0: 0.6})
    header = dict(document["header"])
    assert results.resume(path, header)["levels"] == []
    results.write_json(path, document)
    again = results.resume(path, header)
    assert results.level_row(again, 0.0) is not None
    assert results.level_row(again, 0.05) is None
    before = path.read_bytes()
    with pytest.raises(results.ResultError, match=r"holds another run \(n: 1024 there, 99 now\)"):
        results.resume(path, {**header, "n": 99})
    with pytest.raises(results.ResultError, match="model_sha256"):
        results.resume(path, {**header, "model_sha256": "other weights"})
    assert path.read_bytes() == before


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    document = simulate_result(seed=1, accuracies=ACCURACIES)
    with pytest.raises(results.ResultError, match="no such file"):
        results.load(path)
    path.write_text(json.dumps(document)[:100])
    with pytest.raises(results.ResultError, match="not valid JSON"):
        results.load(path)
    document["levels"][1]["outcomes"][0] ^= 1
    results.write_json(path, document)
    with pytest.raises(results.ResultError, match=r"level 0\.05 holds 1024 outcomes"):
        results.load(path)
    path.write_text("[]")
    with pytest.raises(results.ResultError, match="not an evaluation"):
        results.load(path)


def test_a_level_that_the_engine_did_not_hold_is_a_problem() -> None:
    document = simulate_result(seed=1, accuracies=ACCURACIES)
    document["levels"][1]["scales"] = {"min": 0.0, "max": 0.05}
    assert results.problems(document) == ["level 0.05: the engine reported scales 0.0 to 0.05"]
    del document["levels"][1]["scales"]
    assert "None to None" in results.problems(document)[0]


def test_scales_are_compared_as_float32() -> None:
    assert results.is_level({"min": 0.10000000149011612, "max": 0.10000000149011612}, 0.1)
    assert results.is_level({"min": 0.0, "max": 0.0}, 0.0)
    assert not results.is_level({"min": 0.0, "max": 0.0}, 0.05)
    assert not results.is_level({"min": 0.05, "max": 0.0501}, 0.05)


def test_a_missing_session_or_attestation_is_a_problem() -> None:
    document = simulate_result(seed=1, accuracies=ACCURACIES)
    document["sessions"][0]["attestation"] = None
    assert results.problems(document) == ["session 0: no attestation was made"]
    document["sessions"] = []
    assert results.problems(document) == ["session 0 is missing"]
    assert results.problems(results.new(document["header"])) == ["no level was evaluated"]


def test_a_dead_site_is_named_through_the_file() -> None:
    document = simulate_result(seed=1, accuracies=ACCURACIES, dead=[NAMES[2]])
    assert any(NAMES[2] in problem for problem in results.problems(document))


def test_an_attestation_of_another_spec_does_not_count() -> None:
    document = simulate_result(seed=1, accuracies=ACCURACIES)
    document["header"]["fingerprint"] = "f" * 16
    assert FINGERPRINT in results.problems(document)[0]
    with pytest.raises(attestation.Refused):
        attestation.require(document["sessions"][0]["attestation"], "f" * 16)


def test_within_and_between_pair_by_question() -> None:
    one = simulate_result(seed=1, accuracies=ACCURACIES)
    two = simulate_result(seed=2, accuracies={0.0: 0.6, 0.05: 0.58})
    (row,) = results.within(one, margin=0.02)
    clean, noisy = (level["outcomes"] for level in one["levels"])
    assert row["only_first"] == sum(a > b for a, b in zip(clean, noisy, strict=True))
    assert row["difference"] == pytest.approx((sum(noisy) - sum(clean)) / 1024)
    rows = results.between(one, two, margin=0.02)
    assert [row["level"] for row in rows] == [0.0, 0.05]
    assert rows[1]["difference"] > 0.05
    two["header"]["task_sha256"] = "other questions"
    with pytest.raises(results.ResultError, match="different questions"):
        results.between(one, two, margin=0.02)
