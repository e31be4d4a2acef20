"""Passes over questions: settings, several specifications in one engine, draws and samples, and the
control, in Hugging Face on a miniature. About 30 s; vLLM's part is in tests/engines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hetero_plugin.cli import _run
from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation import results
from hetero_plugin.evaluation.answers.run import evaluate, evaluate_specs
from hetero_plugin.evaluation.answers.settings import Settings, cases_of
from hetero_plugin.miniature import task as arithmetic
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save

N = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answers")
    for name, seed in (("one", 1), ("two", 2)):
        shape = MiniatureShape(layers=1, hidden=32, intermediate=48)
        save(build_model(shape, seed), build_tokenizer(), path / name)
    splits = arithmetic.make_splits(digits=3, operands=2, n_train=2, n_dev=2, n_test=N, seed=0)
    arithmetic.write_parquet(arithmetic.to_rows(splits.test, "test"), path / "test.parquet")
    return path


SETTINGS: dict[str, Any] = {
    "levels": [0.0, 1.0],
    "max_tokens": 5,
    "backend": "hf",
    "realised": False,
}


def test_two_specifications_in_one_engine_are_those_by_themselves(
    folder: Path, tmp_path: Path
) -> None:
    specs = {
        "linear": "linear",
        "norms": {"error": "relative_uniform", "targets": ["norm"], "scale": 0.1},
    }
    outs = {name: tmp_path / f"{name}.json" for name in specs}
    found = evaluate_specs(
        folder / "one", folder / "test.parquet", specs, outs, Settings(**SETTINGS)
    )
    alone = evaluate(
        folder / "one", folder / "test.parquet", spec="linear", out=tmp_path / "a.json", **SETTINGS
    )
    both, texts = found["linear"], {}
    for level in (0.0, 1.0):
        rows = [results.level_row(one, level) for one in (*found.values(), alone)]
        texts[level] = [row["texts"] for row in rows if row is not None]
    # Clean is clean whatever is selected, and the same answers count for both.
    assert texts[0.0][0] == texts[0.0][1] == texts[0.0][2]
    # The first one's rules have the numbers that they have alone: the same random numbers.
    assert texts[1.0][0] == texts[1.0][2] != texts[0.0][2]
    assert texts[1.0][1] not in (texts[1.0][0], texts[0.0][0])
    assert both["header"]["rules"] == [0] and found["norms"]["header"]["rules"] == [1]
    assert both["header"]["spec"] == alone["header"]["spec"]
    assert both["header"]["fingerprint"] != alone["header"]["fingerprint"]
    for document in (both, found["norms"], alone):
        assert results.problems(document) == []
        assert document["header"]["backend"] == "hf"


def test_draws_samples_and_the_control(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "eval.json"
    more = {"draws": 3, "samples": 2, "temperature": 1.0, "control": True, **SETTINGS}
    told: list[str] = []

    def stop(what: str, done: int, of: int) -> None:
        told.append(what)
        if "draw 2 of 3" in what:
            raise KeyboardInterrupt

    def run(**changes: Any) -> Any:
        return evaluate(
            folder / "one",
            folder / "test.parquet",
            out=out,
            **{"spec": "linear", **more, **changes},
        )

    with pytest.raises(KeyboardInterrupt):
        run(progress=stop)
    assert "answering clean again" in told and "attesting" in told
    kept = json.loads(out.read_text())
    kept["levels"][0]["texts"][0] = "kept"
    results.write_json(out, kept)
    document = run()
    assert document["levels"][0]["texts"][0] == "kept" and len(document["sessions"]) == 2
    passes = {(row["level"], row["draw"], row["sample"]) for row in document["draws"]}
    assert passes == {
        (0.0, 0, 1), (1.0, 0, 1), (1.0, 1, 0), (1.0, 1, 1), (1.0, 2, 0), (1.0, 2, 1)
    }  # fmt: skip
    answers = [row["texts"] for row in [*document["levels"][1:], *document["draws"]]]
    assert len({tuple(one) for one in answers}) == len(answers), "each draw and sample is its own"
    assert results.problems(document) == [] and results.load(out)["draws"] == document["draws"]
    table = parquet.read_table(out.with_suffix(".parquet")).to_pylist()
    assert len(table) == N * (2 + 6 + 1)
    wanted = document["draws"][2]
    picked = [
        row for row in table
        if (row["level"], row["draw"], row["sample"], row["control"])
        == (wanted["level"], wanted["draw"], wanted["sample"], False)
    ]  # fmt: skip
    assert [row["text"] for row in picked] == wanted["texts"]
    assert [int(row["right"]) for row in picked] == wanted["outcomes"]
    with pytest.raises(results.ResultError, match="draws: 3 there, 4 now"):
        run(draws=4)


def test_the_control_is_clean_in_other_batches(folder: Path, tmp_path: Path) -> None:
    found = evaluate(
        folder / "one", folder / "test.parquet", spec="linear", out=tmp_path / "e.json",
        **{**SETTINGS, "levels": [0.0, 0.01], "control": True},
    )  # fmt: skip
    assert found["control"]["texts"] == found["levels"][0]["texts"], "float32: batches are nothing"
    assert found["control"]["scales"] == {"min": 0.0, "max": 0.0}


def test_several_models_by_the_command(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of three lacks its weights: it is named, the others' results are there."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((folder / "one" / "config.json").read_text())
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(folder / "test.parquet"), "--engine", "hf", "--out", "all", "--n", "6"]
    for model in (folder / "one", broken, folder / "two"):
        words += ["--model", str(model)]
    words += ["--levels", "0,0.5", "--presets", "linear,rmsnorm", "--no-realised"]
    with pytest.raises(SystemExit) as left:
        _run("eval", words)
    said = capsys.readouterr()
    assert left.value.code == 1 and "1 of 3 models failed" in said.err
    assert "broken: holds no weights" in said.err
    made = sorted(path.name for path in (tmp_path / "all").glob("*.json"))
    assert made == ["one.linear.json", "one.rmsnorm.json", "two.linear.json", "two.rmsnorm.json"]
    assert len(list((tmp_path / "all").glob("*.parquet"))) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [0.0]}, r"levels are \[0\]"),
        ({"levels": [-1.0]}, "a finite number >= 0"),
        ({"draws": 0}, "draws is 0"),
        ({"samples": 2}, "where all are alike"),
        ({"temperature": -1.0}, "from 0 to 10"),
        ({"backend": "x"}, "one of vllm, hf"),
        ({"backend": "hf", "engine": {"a": 1}}, "arguments of vLLM's engine"),
        ({"margin": 0.0}, "between 0 and 1"),
        ({"chance": 1.0}, "from 0 to under 1"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**changes)


def test_specifications_that_cannot_be_together() -> None:
    outs = {"a": Path(), "b": Path()}
    with pytest.raises(ConfigError, match="b and a differ in seed"):
        cases_of({"a": {"scale": 0.1, "seed": 1}, "b": {"scale": 0.1, "seed": 2}}, outs, Settings())
    whole, cases = cases_of(
        {"a": {"scale": 0.1, "seed": 1}, "b": {"scale": 0.1, "seed": 2}}, outs, Settings(seed=3)
    )
    assert [case.rules for case in cases] == [(0,), (1,)] and len(whole.rules) == 2
    with pytest.raises(ConfigError, match="draws anew at each call"):
        cases_of({"a": {"scale": 0.1, "resample": "call"}}, outs, Settings(draws=2))
    assert (
        cases_of({"a": {"scale": 0.1, "resample": "never"}}, outs, Settings(draws=2))[0].resample
        == "step"
    )
