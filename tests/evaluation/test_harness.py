"""Two runs of anybody's harness: what is read of their files, and the page. A few seconds."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import simulate_result

from hetero_plugin.cli import _run
from hetero_plugin.evaluation import results, stats
from hetero_plugin.evaluation.harness.compare import compare
from hetero_plugin.evaluation.harness.runs import read_run
from hetero_plugin.evaluation.records import ResultError


def outcomes(seed: int, loss: float, n: int = 400) -> list[int]:
    """About 60 % right; of the right ones a share lost."""
    base = np.random.default_rng(0).random(n) < 0.6
    lost = np.random.default_rng(seed).random(n) < loss
    return [int(right and not gone) for right, gone in zip(base, lost, strict=True)]


def write_lines(path: Path, rows: Sequence[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lm_eval(path: Path, right: Sequence[int], *, filters: Sequence[str] = ("none",)) -> str:
    """As lm-eval 0.4.9 writes with --log_samples, for a generated answer."""
    return write_lines(
        path,
        [
            {
                "doc_id": i,
                "doc": {"question": f"q{i}"},
                "target": "#### 3",
                "arguments": {},
                "resps": [[f"answer {value}"]],
                "filtered_resps": [str(value)],
                "filter": name,
                "metrics": ["exact_match", "f1"],
                "doc_hash": f"hash {i}",
                "prompt_hash": "p",
                "target_hash": "t",
                "exact_match": float(value),
                "f1": 0.5,
            }
            for i, value in enumerate(right)
            for name in filters
        ],
    )


def verl(path: Path, right: Sequence[int]) -> str:
    return write_lines(
        path,
        [
            {"input": f"q{i}", "output": "so #### 3", "gts": "3", "score": float(value), "step": 20}
            for i, value in enumerate(right)
        ],
    )


def inspect_log(right: Sequence[int], cut: float = 0.0) -> dict[str, Any]:
    return {
        "version": 2,
        "status": "success",
        "eval": {"task": "gsm8k", "model": "vllm/model"},
        "samples": [
            {
                "id": i + 1,
                "epoch": 1,
                "input": f"q{i}",
                "target": "3",
                "output": {
                    "choices": [
                        {
                            "message": {"role": "assistant", "content": "ANSWER: 3"},
                            "stop_reason": "max_tokens" if i < cut * len(right) else "stop",
                        }
                    ],
                    "completion": "ANSWER: 3",
                },
                "scores": {"match": {"value": "C" if value else "I", "answer": "3"}},
            }
            for i, value in enumerate(right)
        ],
    }


def inspect_json(path: Path, right: Sequence[int]) -> str:
    path.write_text(json.dumps(inspect_log(right)))
    return str(path)


def inspect_zip(path: Path, right: Sequence[int]) -> str:
    log = inspect_log(right)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", json.dumps({**log, "samples": None}))
        for sample in log["samples"]:
            archive.writestr(f"samples/{sample['id']}_epoch_1.json", json.dumps(sample))
    return str(path)


WRITERS: dict[str, tuple[Callable[[Path, Sequence[int]], str], str]] = {
    "lm-eval": (lm_eval, ".jsonl"),
    "verl": (verl, ".jsonl"),
    "inspect": (inspect_json, ".json"),
    "inspect zip": (inspect_zip, ".eval"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_harness_gives_the_same_comparison(name: str, tmp_path: Path) -> None:
    write, suffix = WRITERS[name]
    one, two = outcomes(1, 0.0), outcomes(2, 0.2)
    runs = [
        read_run(write(tmp_path / f"{key}{suffix}", values))
        for key, values in (("a", one), ("b", two))
    ]
    found = compare(*runs, margin=0.02)
    expected = stats.compare(one, two)
    row = found["comparison"]
    assert (row["n"], row["only_first"], row["only_second"]) == (400, expected.only_first, 0)
    assert row["mcnemar_p"] == expected.mcnemar_p and row["verdict"] == "DEGRADED"
    assert found["sentence"].endswith("DEGRADED: a loss is shown.")
    assert len(found["flips"]) == expected.only_first
    assert found["differences"] == []


def test_what_a_file_doesnt_tell_is_said(tmp_path: Path) -> None:
    run = read_run(lm_eval(tmp_path / "a.jsonl", outcomes(1, 0.0)))
    found = compare(run, run, margin=0.02)
    assert found["unknown"] == ["how many answers were cut off"]
    assert found["comparison"]["verdict"] == "EQUIVALENT", "no item flipped"


def test_answers_cut_off_in_another_harness_give_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(inspect_log(outcomes(1, 0.0), cut=0.06)))
    run = read_run(str(tmp_path / "a.json"))
    found = compare(run, run, margin=0.02)
    assert found["comparison"]["verdict"] == "NO VERDICT" and "6.0 % of" in found["sentence"]
    assert found["unknown"] == []


def test_an_all_wrong_run_gives_no_verdict(tmp_path: Path) -> None:
    run = read_run(verl(tmp_path / "a.jsonl", [0] * 1319))
    found = compare(run, run, margin=0.02)
    assert found["comparison"]["verdict"] == "NO VERDICT"
    assert "losing everything would pass" in found["sentence"]


def test_our_own_results_by_level(tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    results.write_json(path, simulate_result(seed=1, accuracies={0.0: 0.6, 0.05: 0.4}))
    found = compare(read_run(f"{path}@0"), read_run(f"{path}@0.05"), margin=0.02)
    assert found["comparison"]["verdict"] == "DEGRADED" and found["differences"] == []
    assert found["runs"][0]["facts"]["attestation"] == "passed"
    for bad in ("", "@0.1", "@x"):
        with pytest.raises(ResultError, match=r"@LEVEL; there are \[0\.0, 0\.05\]"):
            read_run(f"{path}{bad}")


def test_filters_and_metrics_of_lm_eval(tmp_path: Path) -> None:
    path = lm_eval(tmp_path / "a.jsonl", [1, 0], filters=("strict", "flexible"))
    with pytest.raises(ResultError, match="has the filters flexible, strict"):
        read_run(path)
    run = read_run(path, filter_name="strict")
    assert (run.metric, len(run.items), run.items["0"].text) == ("exact_match", 2, "answer 1")
    with pytest.raises(ResultError, match="no filter 'lenient'"):
        read_run(path, filter_name="lenient")
    with pytest.raises(ResultError, match="has no metric 'acc'"):
        read_run(path, filter_name="strict", metric="acc")
    with pytest.raises(ResultError, match=r"'f1' of item 0 is 0\.5"):
        read_run(path, filter_name="strict", metric="f1")


def test_several_answers_to_an_item(tmp_path: Path) -> None:
    rows = [{"input": "q", "output": "x", "score": float(k), "step": 0} for k in (1, 0)]
    path = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(ResultError, match="several answers to the item 'q'; --first"):
        read_run(path)
    assert read_run(path, first=True).items["q"].right == 1


def test_runs_of_different_items(tmp_path: Path) -> None:
    one = read_run(lm_eval(tmp_path / "a.jsonl", outcomes(1, 0.0)))
    two = read_run(lm_eval(tmp_path / "b.jsonl", outcomes(1, 0.0)[:300]))
    with pytest.raises(ResultError, match=r"100 items of .*a\.jsonl are not in .*b\.jsonl"):
        compare(one, two, margin=0.02)
    found = compare(one, two, margin=0.02, common=True)
    assert found["left_out"] == [100, 0] and found["comparison"]["n"] == 300
    text = Path(two.name).read_text().replace('hash 7"', 'another"')
    Path(two.name).write_text(text)
    with pytest.raises(ResultError, match="the item '7' is one question"):
        compare(one, read_run(two.name), margin=0.02, common=True)
    three = read_run(verl(tmp_path / "c.jsonl", outcomes(1, 0.0)))
    with pytest.raises(ResultError, match=r"'exact_match'.*'score'"):
        compare(one, three, margin=0.02)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "holds no items"),
        ("a.jsonl", "{", "line 1: not JSON"),
        ("a.jsonl", "[1]", "line 1: is"),
        ("a.jsonl", '{"x": 1}', "has the fields"),
        ("a.json", "[]", "holds list"),
        ("a.json", '{"x": 1}', "expected lm-eval"),
        ("a.json", '{"samples": []}', "none of its 0 samples"),
        ("none.jsonl", None, "no such file"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ResultError, match=message) as caught:
        read_run(str(tmp_path / name))
    assert name in str(caught.value)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = lm_eval(tmp_path / "a.jsonl", outcomes(1, 0.0))
    two = lm_eval(tmp_path / "b.jsonl", outcomes(2, 0.1))
    with pytest.raises(SystemExit) as left:
        _run("compare", [one, two, "--legacy-verdict", "--out", str(tmp_path / "page")])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert "DEGRADED" in said and "the old rule on 200 items" in said
    found = json.loads((tmp_path / "page.json").read_text())
    page = (tmp_path / "page.html").read_text()
    assert found["comparison"]["verdict"] == "DEGRADED" and "<h1>DEGRADED</h1>" in page
    assert "http" not in page and "<script" not in page
    with pytest.raises(SystemExit) as left:
        _run("compare", [one, two, "--margin", "2"])
    assert left.value.code == 2 and "margin 2.0" in capsys.readouterr().err
