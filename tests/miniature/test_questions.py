"""Question files of the user: the real GSM8K through preparation, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation.tasks import load_task
from hetero_plugin.miniature import model as miniature
from hetero_plugin.miniature import task
from hetero_plugin.verl.reward import gsm8k_strict
from recipes.miniature import questions

_GSM8K = Path(
    os.environ.get("HETERO_GSM8K", Path(__file__).resolve().parents[3] / "shared/data/gsm8k")
)
needs_gsm8k = pytest.mark.skipif(
    not (_GSM8K / "test.jsonl").is_file(),
    reason=f"no GSM8K at {_GSM8K}; set HETERO_GSM8K to the folder of its train and test .jsonl",
)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    shape = miniature.MiniatureShape(layers=1, hidden=64, heads=2, kv_heads=1)
    folder = tmp_path / "start"
    miniature.save(miniature.build_model(shape, 0), miniature.build_tokenizer(), folder)
    return folder


@needs_gsm8k
def test_gsm8k_is_prepared_whole_and_in_order(tmp_path: Path) -> None:
    questions.write_given(
        _GSM8K / "train.jsonl", _GSM8K / "test.jsonl", tmp_path, n_dev=500, seed=0
    )
    sizes = {name: len(load_task(tmp_path / f"{name}.parquet")) for name in questions.SPLITS}
    assert sizes == {"train": 6973, "dev": 500, "test": 1319}
    read = load_task(tmp_path / "test.parquet")
    original = load_task(_GSM8K / "test.jsonl")
    assert read.data_source == original.data_source == "openai/gsm8k"
    for mine, theirs in zip(read.questions, original.questions, strict=True):
        assert (mine.messages, mine.reference) == (theirs.messages, theirs.reference)
        assert gsm8k_strict(theirs.solution or "", mine.reference)
        assert not gsm8k_strict("#### 123456789", mine.reference)


def test_generated_questions_are_prepared(tmp_path: Path) -> None:
    splits = task.make_splits(digits=5, operands=2, n_train=40, n_dev=5, n_test=10, seed=0)
    files = questions.write_generated(splits, tmp_path)
    sizes = {name: len(load_task(path)) for name, path in files.items()}
    assert sizes == {"train": 40, "dev": 5, "test": 10}


def _jsonl(path: Path, *questions: str) -> Path:
    rows = [json.dumps({"question": q, "answer": f"so\n#### {i}"}) for i, q in enumerate(questions)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_test_question_in_the_training_file_is_refused(tmp_path: Path) -> None:
    train = _jsonl(tmp_path / "train.jsonl", *"abcdefgh")
    test = _jsonl(tmp_path / "test.jsonl", "x", "b")
    with pytest.raises(ConfigError, match=r"1 questions of .*train\.jsonl are in"):
        questions.write_given(train, test, tmp_path, n_dev=2, seed=0)


def test_development_questions_leave_the_training_set(tmp_path: Path) -> None:
    train = _jsonl(tmp_path / "train.jsonl", *"abcdefghij")
    test = _jsonl(tmp_path / "test.jsonl", "x", "y")
    files = questions.write_given(train, test, tmp_path / "out", n_dev=500, seed=0)
    asked = {
        name: {q.messages[-1]["content"] for q in load_task(path).questions}
        for name, path in files.items()
    }
    assert [len(asked[name]) for name in questions.SPLITS] == [8, 2, 2]
    assert not asked["train"] & asked["dev"] and len(asked["train"] | asked["dev"]) == 10


def test_a_checkpoint_of_another_family_is_named(start: Path) -> None:
    path = start / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "llama"}))
    with pytest.raises(ConfigError, match=r"is a 'llama'.*Qwen2"):
        questions.check_model(start)
