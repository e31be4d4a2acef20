"""The report: what it says, what it refuses, and that the page stands alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from toy import NAMES, simulate_run

from hetero_plugin import attestation
from hetero_plugin.evaluation import results
from hetero_plugin.evaluation.report import page as report
from hetero_plugin.evaluation.report import schema, sources
from hetero_plugin.evaluation.report import words as report_words
from hetero_plugin.evaluation.report.data import curves, read_metrics


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    paths = report.build(simulate_run(tmp_path_factory.mktemp("run")))
    return json.loads(paths[0].read_text()), paths[1].read_text()


def test_it_holds_three_arms_three_levels_and_the_attestation(built: tuple[dict, str]) -> None:
    found, _ = built
    assert found["status"] == "ATTESTED"
    assert list(found["arms"]) == ["clean", "noise", "noise_aqn"]
    assert found["levels"] == [0.0, 0.05, 0.1]
    assert found["n"] == 1024
    for arm in found["arms"].values():
        assert [row["level"] for row in arm["levels"]] == [0.0, 0.05, 0.1]
        assert all(row["low"] <= row["value"] <= row["high"] for row in arm["levels"])
    for record in found["attestation"].values():
        assert record["passed"] and record["seen"] == record["of"] == 4
        assert all(site["seen"] for site in record["sessions"][0]["sites"])


def test_comparisons_are_complete_and_adjusted(built: tuple[dict, str]) -> None:
    rows = built[0]["comparisons"]
    assert sum(row["type"] == "noise" for row in rows) == 3 * 2
    assert sum(row["type"] == "arms" for row in rows) == 2 * 3  # with the baseline
    assert all(row["p_adjusted"] >= row["mcnemar_p"] for row in rows)
    strongest = min(rows, key=lambda row: row["mcnemar_p"])
    assert strongest["p_adjusted"] == pytest.approx(min(1, 12 * strongest["mcnemar_p"]))


def test_it_is_as_its_schema_says(built: tuple[dict, str]) -> None:
    report, _ = built
    jsonschema.Draft202012Validator(schema.json_schema()).validate(report)
    schema.check(report)
    lacking = {key: value for key, value in report.items() if key != "floors"}
    with pytest.raises(ValueError, match="floors"):
        schema.check(lacking)
    with pytest.raises(ValueError, match="moreover"):
        schema.check({**report, "moreover": 1})


def test_answers_that_are_all_alike_are_as_the_schema_says_too() -> None:
    for of in ("accuracy", "difference"):
        row = sources._row("clean", 0.1, of, np.zeros((1, 2, 1, 16)))
        assert row["low"] is None
        schema.Source.model_validate(row)


def test_a_report_that_is_not_as_described_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(found: object) -> None:
        raise ValueError("floors")

    monkeypatch.setattr(schema, "check", refuses)
    with pytest.warns(UserWarning, match=r"report\.json is not as its schema says: floors"):
        paths = report.build(simulate_run(tmp_path / "run", steps=4))
    assert all(path.is_file() for path in paths)


class Page(HTMLParser):
    """Collects what could fetch something, and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def test_the_page_needs_no_network_and_no_script(built: tuple[dict, str]) -> None:
    page = Page()
    page.feed(built[1])
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    assert all(link.startswith("#") for link in page.links), page.links
    assert not re.search(r"url\((?!#)|@import", built[1])
    assert page.tags.count("svg") >= 5
    assert len(page.ids) == len(set(page.ids))


def test_every_reference_inside_the_drawings_resolves(built: tuple[dict, str]) -> None:
    page = Page()
    page.feed(built[1])
    used = re.findall(r"url\(#([^)]+)\)", built[1]) + [link[1:] for link in page.links]
    assert used and set(used) <= set(page.ids)


def test_drawings_follow_the_pages_colours(built: tuple[dict, str]) -> None:
    assert "var(--series-3)" in built[1] and "prefers-color-scheme: dark" in built[1]
    assert "#0a0b0" not in built[1] and "#010203" not in built[1]


def test_the_page_shows_what_the_data_holds(built: tuple[dict, str]) -> None:
    found, page = built
    for arm in found["arms"].values():
        for row in arm["levels"]:
            assert report_words.percent(row["value"]) in page
    assert found["attestation"]["noise"]["sessions"][0]["signature"][:15] in page
    assert "σ" in page and "McNemar" in page
    assert "Each arm is one trained checkpoint (seed 7 in all)" in page
    assert "held out" not in page and "relative error" not in page.split("Realised error")[0]


def test_an_unattested_run_is_refused_without_numbers(tmp_path: Path) -> None:
    run = simulate_run(tmp_path / "run", dead=[NAMES[2]])
    with pytest.raises(attestation.Refused, match=rf"REFUSED: noise: .*{NAMES[2]}"):
        report.build(run)
    found = json.loads((run / "report.json").read_text())
    page = (run / "report.html").read_text()
    assert found["status"] == "REFUSED" and "arms" not in found and "summary" not in found
    assert "REFUSED" in page and NAMES[2] in page
    assert "Accuracy by noise level" not in page and "<svg" not in page


def test_an_unattested_run_can_be_shown_and_is_marked(tmp_path: Path) -> None:
    run = simulate_run(tmp_path / "run", dead=[NAMES[2]])
    json_path, html_path = report.build(run, allow_unattested=True)
    assert json.loads(json_path.read_text())["status"] == "UNATTESTED"
    page = html_path.read_text()
    assert page.count("UNATTESTED") >= 3 and "Nothing below is evidence" in page


def test_an_edited_result_is_refused(tmp_path: Path) -> None:
    run = simulate_run(tmp_path / "run")
    path = run / "eval" / "clean.json"
    document = results.load(path)
    document["sessions"][0]["attestation"]["sites"][0]["seen"] = False
    results.write_json(path, document)
    with pytest.raises(attestation.Refused, match="clean: session 0: signature"):
        report.build(run)


def test_no_run_and_no_evaluation_are_errors(tmp_path: Path) -> None:
    with pytest.raises(results.ResultError, match="no such run folder"):
        report.build(tmp_path / "nothing")
    (tmp_path / "run").mkdir()
    with pytest.raises(results.ResultError, match="nothing evaluated yet"):
        report.build(tmp_path / "run")


def test_a_refused_report_has_no_numbers_in_markdown_either(tmp_path: Path) -> None:
    run = simulate_run(tmp_path / "run", dead=[NAMES[2]])
    with pytest.raises(attestation.Refused):
        report.build(run)
    plain = (run / "report.md").read_text()
    assert "REFUSED" in plain and NAMES[2] in plain and "%" not in plain


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    run = simulate_run(tmp_path / "run")
    settings = {"title": "<script>alert(1)</script>", "labels": {"noise": "<b>&x</b>"}}
    (run / "settings.json").write_text(json.dumps(settings))
    page = report.build(run)[1].read_text()
    assert "<script>" not in page and "<b>&x" not in page
    assert "&lt;b&gt;&amp;x&lt;/b&gt;" in page


def test_metrics_of_a_resumed_run_count_the_last_time(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    steps = [(1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25), (3, 0.35)]
    lines = [json.dumps({"step": s, "data": {"a": v, "nan": float("nan")}}) for s, v in steps]
    path.write_text("\n".join(lines) + '\n{"step": 4, "da')
    assert read_metrics(path) == {"a": ([1, 2, 3], [0.1, 0.25, 0.35])}
    path.write_text('{"step": 1\n{"step": 2, "data": {}}\n')
    with pytest.raises(results.ResultError, match="line 1"):
        read_metrics(path)


def test_one_drawing_shows_one_quantity() -> None:
    arms = {
        "clean": {"label": "clean", "series": {"b": ([1], [0.1])}},
        "noise": {"label": "noise", "series": {"a": ([1], [9.0]), "b": ([1], [0.2])}},
    }
    assert curves(arms, "a", "b") == ("b", {"clean": ([1], [0.1]), "noise": ([1], [0.2])})
    assert curves(arms, "a") == ("a", {"noise": ([1], [9.0])})
    assert curves(arms, "c") == ("", {})


def test_a_single_evaluation_without_training_has_a_report(tmp_path: Path) -> None:
    run = simulate_run(tmp_path / "run", steps=1)
    for name in ("noise", "noise_aqn"):
        (run / "eval" / f"{name}.json").unlink()
    (run / "settings.json").unlink()
    for path in run.glob("arms/*/*"):
        path.unlink()
    json_path, html_path = report.build(run)
    assert list(json.loads(json_path.read_text())["arms"]) == ["clean"]
    page = html_path.read_text()
    assert page.count("<svg") == 2 and "Arm against arm" not in page and "Training" not in page


def test_arms_at_different_levels_are_not_reported(tmp_path: Path) -> None:
    run = simulate_run(tmp_path / "run", steps=4)
    document = results.load(run / "eval" / "noise.json")
    document["levels"].pop()
    results.write_json(run / "eval" / "noise.json", document)
    with pytest.raises(results.ResultError, match="different levels"):
        report.build(run)


def paired(difference: float, p: float, equivalent: bool) -> dict:
    return {
        "difference": difference,
        "p_adjusted": p,
        "equivalence": {"equivalent": equivalent, "p": 0.01},
        "level": 0.05,
        "low": difference - 0.01,
        "high": difference + 0.01,
        "n": 1000,
        "discordance": 0.1,
        "questions_to_decide": 2345,
        "no_verdict": [],
        "minimum_detectable": 0.028,
    }


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (paired(-0.05, 0.001, False), "DEGRADED"),
        (paired(+0.05, 0.001, False), "IMPROVED"),
        (paired(-0.002, 0.6, False), "UNDECIDED"),
        (paired(-0.002, 0.6, True), "EQUIVALENT"),
        (paired(-0.012, 0.01, True), "EQUIVALENT"),
    ],
)
def test_verdicts_are_by_the_tests_alone(row: dict, expected: str) -> None:
    assert report_words.verdict(row) == expected
    sentence = report_words.within_sentence("clean", row, 0.02)
    assert f". {expected}" in sentence
    assert ("2,345 questions would decide" in sentence) == (expected == "UNDECIDED")
    withheld = {**row, "no_verdict": ["12.0 % of the noisy answers were cut off"]}
    assert report_words.verdict(withheld) == "NO VERDICT"
    sentence = report_words.within_sentence("clean", withheld, 0.02)
    assert "NO VERDICT: 12.0 % of the noisy answers were cut off." in sentence


def rewrite(path: Path, **header: object) -> None:
    document = results.load(path)
    document["header"].update(header)
    results.write_json(path, document)


def test_runs_that_differ_beside_their_weights_are_named(tmp_path: Path) -> None:
    run = simulate_run(tmp_path / "run", steps=4)
    common = {"max_tokens": 1024, "dtype": "bfloat16", "seed": 5, "engine": {}}
    for name in ("clean", "noise", "noise_aqn"):
        rewrite(run / "eval" / f"{name}.json", **common)
    assert json.loads(report.build(run)[0].read_text())["differences"] == []
    rewrite(run / "eval" / "noise.json", max_tokens=512, seed=6, margin=0.01)
    json_path, html_path = report.build(run)
    found = json.loads(json_path.read_text())
    assert {row["field"] for row in found["differences"]} == {"max_tokens", "seed", "margin"}
    assert found["differences"][1]["values"] == {"clean": 1024, "noise": 512, "noise_aqn": 1024}
    assert found["margin"] == 0.01, "the strictest of those written down"
    page = html_path.read_text()
    assert "Where the runs differ" in page and "not the same for every arm" in page


@pytest.mark.parametrize(
    ("field", "message"), [("scorer", "judged by different rules"), ("n", "asked different")]
)
def test_runs_that_cant_be_compared_are_refused(tmp_path: Path, field: str, message: str) -> None:
    run = simulate_run(tmp_path / "run", steps=4)
    for name in ("clean", "noise", "noise_aqn"):
        rewrite(run / "eval" / f"{name}.json", scorer="strict")
    rewrite(run / "eval" / "noise.json", **{"scorer": "lenient"})
    if field == "n":
        rewrite(run / "eval" / "noise.json", task_sha256="other")
    with pytest.raises(results.ResultError, match=message):
        report.build(run)


def test_what_stands_against_a_verdict_is_on_the_page(tmp_path: Path) -> None:
    """All answers wrong at every level, and cut off: equal, and no verdict."""
    run = simulate_run(tmp_path / "run", steps=4)
    for path in sorted((run / "eval").glob("*.json")):
        document = results.load(path)
        for row in document["levels"]:
            row["outcomes"] = [0] * 1024
            row["accuracy"].update(hits=0, value=0.0, low=0.0, high=0.004)
            row["truncated_share"] = 0.991
        results.write_json(path, document)
    json_path, html_path = report.build(run, legacy=True)
    found = json.loads(json_path.read_text())
    assert {row["verdict"] for row in found["comparisons"]} == {"NO VERDICT"}
    assert {row["legacy"]["word"] for row in found["legacy"]} == {"robust"}
    page = html_path.read_text()
    assert "99.1 % of the clean answers were cut off" in page and "99.1 % cut off" in page
    assert "losing everything would pass as equivalent" in page
    assert "no arm at any level is shown to be" in page
    assert "old rule" in page and "equal model called robust" in page
