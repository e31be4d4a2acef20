"""Question files: every layout, real GSM8K, and every way a file can be bad."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hetero_plugin.evaluation import tasks
from hetero_plugin.evaluation.scoring.judge import judge_of
from hetero_plugin.miniature import task as arithmetic
from hetero_plugin.miniature.model import build_tokenizer

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"
needs_gsm8k = pytest.mark.skipif(
    not (GSM8K / "test.jsonl").is_file(),
    reason=f"real GSM8K is not at {GSM8K.parent.parent.name}/data/gsm8k beside the repository",
)
SOLUTION = "She has 3 * 4 = <<3*4=12>>12 boxes.\nThat is 12 * 100 = 1,200 pens.\n#### 1,200"


def write_jsonl(path: Path, *records: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_parquet(path: Path, *records: Mapping[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist([dict(record) for record in records]), path)
    return path


@needs_gsm8k
def test_real_gsm8k_from_parquet_is_the_same_task(tmp_path: Path) -> None:
    lines = (GSM8K / "test.jsonl").read_text().splitlines()[:50]
    path = write_parquet(tmp_path / "test.parquet", *(json.loads(line) for line in lines))
    from_parquet = tasks.load_task(path)
    from_lines = tasks.load_task(GSM8K / "test.jsonl", limit=50)
    assert from_parquet.questions == from_lines.questions
    assert from_lines.total == 1319


@needs_gsm8k
def test_a_real_prompt_asks_the_question_and_says_how_to_answer() -> None:
    question = tasks.load_task(GSM8K / "test.jsonl", limit=1).questions[0]
    tokenizer = build_tokenizer()
    text = tokenizer.decode(tasks.prompt_ids(tokenizer, question))
    assert "Janet" in text and '"####"' in text and "#### 18" not in text


def test_the_generated_task_is_read_and_scored_exactly(tmp_path: Path) -> None:
    splits = arithmetic.make_splits(digits=2, operands=2, n_train=4, n_dev=4, n_test=40, seed=3)
    rows = arithmetic.to_rows(splits.test, "test")
    task = tasks.load_task(arithmetic.write_parquet(rows, tmp_path / "test.parquet"))
    assert (len(task), task.layout) == (40, "verl")
    judge = judge_of(task.questions)
    for form, right in ((" {}<|im_end|>", 1), ("{}0", 0), ("{} or 7", 0)):
        texts = [form.format(made.answer) for made in splits.test]
        assert judge.judge(task.questions, texts).right == [right] * 40
    assert [q.reference for q in task.questions] == [made.answer for made in splits.test]
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tasks.prompt_ids(tokenizer, task.questions[0])) == (
        f"{splits.test[0].prompt}="
    )


def test_verls_gsm8k_layout_is_the_same_task(tmp_path: Path) -> None:
    record = {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": "How many pens?"}],
        "reward_model": {"style": "rule", "ground_truth": "1200"},
        "extra_info": {"answer": SOLUTION},
    }
    question = tasks.load_task(write_parquet(tmp_path / "t.parquet", record)).questions[0]
    assert question.solution == SOLUTION and question.extra == {"answer": SOLUTION}
    assert (question.data_source, question.reference) == ("openai/gsm8k", "1200")


@pytest.mark.parametrize(
    ("answer", "reference"),
    [(SOLUTION, "1200"), ("#### -3", "-3"), ("#### 2.5", "2.5"), ("#### 7.", "7"), ("7", None)],
)
def test_reference_answers(answer: str, reference: str | None) -> None:
    assert tasks.reference_answer(answer) == reference


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "no questions"),
        ('{"question": "a", "answer": "#### 1"}\n{"question": ', "line 2: not JSON"),
        ("[1, 2]", "line 1: expected a JSON object"),
        ('{"question": "a"}', "line 1: 'answer' is missing"),
        ('{"question": "a", "answer": "it is 3"}', "line 1: the answer does not end in '#### N'"),
        ('{"text": "a"}', "line 1: has the fields \\['text'\\]"),
        ('{"prompt": "a", "reward_model": {}}', "'prompt' must be a list"),
        ('{"prompt": [{"role": "user"}]}', "needs role and content"),
        (
            '{"prompt": [{"role": "user", "content": "a"}], "reward_model": {"style": "rule"}}',
            "ground_truth' is missing",
        ),
        (
            '{"prompt": [{"role": "user", "content": "a"}], "reward_model": {"ground_truth": "1"}}',
            "'data_source' is missing",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(lines)
    with pytest.raises(tasks.DataError, match=message) as caught:
        tasks.load_task(path)
    assert "bad.jsonl" in str(caught.value)


def test_a_missing_file_names_what_lies_there(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", {"question": "a", "answer": "#### 1"})
    with pytest.raises(tasks.DataError, match=r"holds test\.jsonl"):
        tasks.load_task(tmp_path / "tset.jsonl")
    with pytest.raises(tasks.DataError, match=r"holds test\.jsonl"):
        tasks.load_task(tmp_path)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\n")
    with pytest.raises(tasks.DataError, match=r"expected \.jsonl or \.parquet"):
        tasks.load_task(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_text("not parquet")
    with pytest.raises(tasks.DataError, match="not a readable parquet"):
        tasks.load_task(tmp_path / "a.parquet")


def test_two_data_sources_in_one_file_are_refused(tmp_path: Path) -> None:
    one = {
        "data_source": "a",
        "prompt": [{"role": "user", "content": "x"}],
        "reward_model": {"ground_truth": "1"},
    }
    path = write_parquet(tmp_path / "t.parquet", one, {**one, "data_source": "b"})
    with pytest.raises(tasks.DataError, match="mixes the data sources"):
        tasks.load_task(path)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_nothing_is_refused(tmp_path: Path, limit: int) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", {"question": "a", "answer": "#### 1"})
    with pytest.raises(tasks.DataError, match="at least 1"):
        tasks.load_task(path, limit=limit)


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", {"question": "a", "answer": "#### 1"})
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(tasks.DataError, match="no chat template"):
        tasks.prompt_ids(tokenizer, tasks.load_task(path).questions[0])
