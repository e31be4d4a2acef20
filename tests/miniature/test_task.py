"""The generated additions: right answers, disjoint splits, GSM8K's layout."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from hetero_plugin.evaluation.scoring.judge import judge_of
from hetero_plugin.evaluation.tasks import load_task
from hetero_plugin.miniature import task


def _splits(seed: int = 0, **sizes: int) -> task.Splits:
    wanted = {"n_train": 300, "n_dev": 50, "n_test": 200} | sizes
    return task.make_splits(digits=3, operands=2, seed=seed, **wanted)


def test_an_answer_is_the_sum() -> None:
    question = task.Question((347, 682))
    assert (question.prompt, question.answer) == ("347+682", "1029")


def test_splits_share_no_question_whatever_the_order_of_operands() -> None:
    splits = _splits()
    keys = [q.key for q in (*splits.train, *splits.dev, *splits.test)]
    assert len(keys) == 550 == len(set(keys))
    assert task.Question((1, 2)).key == task.Question((2, 1)).key


def test_the_warm_up_never_sees_a_held_out_question() -> None:
    splits = task.make_splits(digits=2, operands=2, n_train=10, n_dev=300, n_test=1500, seed=1)
    stream = task.training_stream(digits=2, operands=2, seed=1, held_out=splits.held_out)
    drawn = {q.key for q in itertools.islice(stream, 5000)}
    assert len(drawn) > 1000
    assert not drawn & {q.key for q in (*splits.dev, *splits.test)}


def test_the_test_set_depends_on_the_seed_alone() -> None:
    assert _splits().test == _splits(n_train=20, n_dev=7).test
    assert _splits().test != _splits(seed=1).test


def test_operands_have_the_number_of_digits() -> None:
    for question in _splits().test:
        assert all(100 <= value <= 999 for value in question.operands)


def test_too_many_questions_is_an_error_with_the_numbers() -> None:
    with pytest.raises(task.TaskError, match=r"5000 questions.*1-digit addition has 55"):
        task.make_splits(digits=1, operands=2, n_train=4000, n_dev=0, n_test=1000, seed=0)


@pytest.mark.parametrize("digits", [0, 10])
def test_digits_out_of_range(digits: int) -> None:
    with pytest.raises(task.TaskError, match=f"got {digits}"):
        task.operand_range(digits)


def test_the_parquet_is_read_back_and_scored(tmp_path: Path) -> None:
    questions = _splits().test
    path = task.write_parquet(task.to_rows(questions, "test"), tmp_path / "test.parquet")
    loaded = load_task(path)
    assert (loaded.layout, loaded.data_source, loaded.total) == ("verl", task.DATA_SOURCE, 200)
    for mine, read in zip(questions, loaded.questions, strict=True):
        assert read.messages[-1] == {"role": "user", "content": mine.prompt}
    judge = judge_of(loaded.questions)
    for texts, right in (
        ([q.answer + "<|im_end|>" for q in questions], 1),
        ([str(int(q.answer) + 1) for q in questions], 0),
        ([q.answer + "0" for q in questions], 0),
    ):
        assert judge.judge(loaded.questions, texts).right == [right] * 200
