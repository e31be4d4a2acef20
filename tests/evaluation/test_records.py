"""Results, settings and metrics that are not what they should be: file, line, field, in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import simulate_result, simulate_run

from hetero_plugin.evaluation import records, results
from hetero_plugin.evaluation.report import data as report_data
from hetero_plugin.evaluation.report import page as report

ACCURACIES = {0.0: 0.6, 0.05: 0.5}


def _set(*place: Any) -> Callable[[Any], None]:
    """Puts the last of ``place`` where the others lead."""

    def change(document: Any) -> None:
        *path, last, value = place
        for part in path:
            document = document[part]
        document[last] = value

    return change


def _del(*place: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        *path, last = place
        for part in path:
            document = document[part]
        del document[last]

    return change


DAMAGE: list[tuple[Callable[[Any], None], str]] = [
    (_del("header"), "'header' is missing"),
    (_del("sessions"), "'sessions' is missing"),
    (_del("header", "n"), r"'header\.n' is missing"),
    (_set("header", "n", "many"), r"'header\.n' is 'many'"),
    (_set("header", "n", 10**400), r"'header\.n' is 1000"),
    (_set("header", "n", 1023), "1024 outcomes"),
    (_set("header", [1]), "'header' is"),
    (_set("header", "margin", 2), r"'header\.margin' is 2"),
    (_set("header", "task_sha256", 7), r"'header\.task_sha256' is 7"),
    (_set("levels", {}), "'levels' is"),
    (_set("levels", 1, None), r"'levels\[1\]' is None"),
    (_del("levels", 1, "level"), r"'levels\[1\]\.level' is missing"),
    (_set("levels", 1, "level", -0.1), r"'levels\[1\]\.level' is -0\.1"),
    (_set("levels", 1, "level", "0.05"), r"'levels\[1\]\.level' is '0\.05'"),
    (_set("levels", 1, "level", True), r"'levels\[1\]\.level' is True"),
    (_set("levels", 1, "level", 10**400), r"'levels\[1\]\.level' is 1000"),
    (_set("levels", 1, "level", 0.0), "level 0 is there twice"),
    (_del("levels", 1, "session"), r"'levels\[1\]\.session' is missing"),
    (_set("levels", 1, "session", None), r"'levels\[1\]\.session' is None"),
    (_del("levels", 0, "outcomes"), r"'levels\[0\]\.outcomes' is missing"),
    (_set("levels", 0, "outcomes", 3, 2), r"'levels\[0\]\.outcomes\[3\]' is 2"),
    (_set("levels", 0, "outcomes", 3, "1"), r"'levels\[0\]\.outcomes\[3\]' is '1'"),
    (_del("levels", 0, "accuracy"), r"'levels\[0\]\.accuracy' is missing"),
    (_del("levels", 0, "accuracy", "hits"), r"'levels\[0\]\.accuracy\.hits' is missing"),
    (_set("levels", 0, "accuracy", "low", None), r"'levels\[0\]\.accuracy\.low' is None"),
    (_set("levels", 0, "accuracy", "n", 7), "its header says n=1024"),
    (_set("levels", 0, "texts", ["a"]), "holds 1 texts"),
    (_set("levels", 0, "scales", []), r"'levels\[0\]\.scales' is \[\]"),
    (_set("levels", 0, "scales", "min", "0"), r"'levels\[0\]\.scales\.min' is '0'"),
    (_set("sessions", 0, 7), r"'sessions\[0\]' is 7"),
    (_set("sessions", 0, "attestation", []), r"'sessions\[0\]\.attestation' is \[\]"),
    (_set("sessions", 0, "attestation", "sites", 1, 5), r"attestation\.sites\[1\]' is 5"),
    (_del("sessions", 0, "attestation", "sites", 1, "name"), r"sites\[1\]\.name' is missing"),
    (_del("sessions", 0, "attestation", "time"), r"attestation\.time' is missing"),
    (_set("sessions", 0, "attestation", "checks", 0, {}), r"checks\[0\]\.name' is missing"),
    (_set("sessions", 0, "versions", "torch", None), r"versions\.torch' is None"),
    (_del("realised", "by_kind", 0, "changed"), r"by_kind\[0\]\.changed' is missing"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGE, ids=[words for _, words in DAMAGE])
def test_damaged_results(tmp_path: Path, damage: Callable[[Any], None], words: str) -> None:
    """The same by ``load`` and by the report; never a KeyError, and nothing is written over."""
    run = simulate_run(tmp_path / "run", steps=2)
    path = run / "eval" / "noise.json"
    document = json.loads(path.read_text())
    damage(document)
    path.write_text(json.dumps(document, indent=1))
    with pytest.raises(results.ResultError, match=words) as caught:
        results.load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}, line ") and "pydantic" not in said and len(said) < 400
    with pytest.raises(results.ResultError, match=words):
        results.resume(path, document.get("header", {}) if isinstance(document, dict) else {})
    with pytest.raises(results.ResultError, match=words):
        report.build(run, allow_unattested=True)


def test_the_line_is_that_of_the_field(tmp_path: Path) -> None:
    document = simulate_result(seed=1, accuracies=ACCURACIES)
    document["levels"][1]["accuracy"]["low"] = "half"
    path = tmp_path / "a.json"
    results.write_json(path, document)
    with pytest.raises(results.ResultError) as caught:
        results.load(path)
    number = int(str(caught.value).split(", line ")[1].split(":")[0])
    assert '"low": "half"' in path.read_text().splitlines()[number - 1]


@pytest.mark.parametrize("text", ['{"a": [1, {"b": 2}], "a": [3, {"b": [4, 5]}]}', "[]", "7"])
def test_lines_of_any_place(text: str) -> None:
    line = records.line_in(text)
    assert line(()) == line(("a", 1, "b", 9)) == line(("c",)) == line((3,)) == 1
    assert records.line_in('{\n"a":\n[1,\n2]}')(("a", 1)) == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"\xff\xfe{}", "not in UTF-8, at byte 0"),
        (b'{"format": 1, "header": NaN}', "NaN is no JSON number"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"format": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"null", "not an evaluation's results"),
        (b'{"format": 2}', "not an evaluation's results"),
    ],
)
def test_text_that_is_no_results(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(results.ResultError, match=words):
        results.load(path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("settings.json", "[]", "is \\[\\]"),
        ("settings.json", '{"labels": 3}', "'labels' is 3"),
        ("settings.json", '{"title": null}', "'title' is None"),
        ("settings.json", '{"baseline": "other"}', "was not evaluated"),
        ("arms/noise/train.json", '"x"', "is 'x'"),
        ("arms/noise/train.json", '{"seed": [1]}', "'seed' is \\[1\\]"),
        ("arms/noise/metrics.jsonl", "7\n{}\n", "line 1: is 7; it should be an object"),
        ("arms/noise/metrics.jsonl", '{"data": 3, "step": 1}\n', "line 1: 'data' is 3"),
        ("arms/noise/metrics.jsonl", '{"data": {}, "step": "x"}\n', "line 1: 'step' is 'x'"),
        ("arms/noise/metrics.jsonl", '{"data": {}, "step": 1.5}\n', "line 1: 'step' is 1.5"),
        ("arms/noise/metrics.jsonl", '{"step": 1}\n{"data": {}}\n', "line 2: has no 'step'"),
        ("arms/noise/metrics.jsonl", '{"a": 1\n{"step": 1}\n', "line 1: not JSON"),
    ],
)
def test_other_files_of_a_run(tmp_path: Path, name: str, text: str, words: str) -> None:
    run = simulate_run(tmp_path / "run", steps=2)
    (run / name).write_text(text)
    with pytest.raises(results.ResultError, match=words) as caught:
        report.build(run)
    assert str(run / name) in str(caught.value)


def test_metrics_that_cant_be_drawn_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "data": {"a": 1' + "0" * 400 + ', "b": 2, "c": true, "d": NaN}}\n')
    assert report_data.read_metrics(path) == {"b": ([1], [2.0])}
