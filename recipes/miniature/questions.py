"""Questions on disk: the generated additions, or files that the user gives (GSM8K and alike)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation.tasks import load_task
from hetero_plugin.miniature import task
from hetero_plugin.study.weights import check_clean

SPLITS = ("train", "dev", "test")


def check_model(path: Path) -> None:
    """That training on a CPU can start from a checkpoint.

    Raises:
        CheckpointError: no checkpoint there, or not a clean one.
        ConfigError: not a Qwen2, or without weights or tokenizer.
    """
    config = check_clean(path)
    if config.get("model_type") != "qwen2":
        raise ConfigError(
            f"--model {path} is a {config.get('model_type')!r}; training on a CPU is built for "
            "Qwen2 checkpoints (model_type 'qwen2')"
        )
    if not any(path.glob("*.safetensors")):
        raise ConfigError(f"--model {path} holds no *.safetensors weights")
    if not (path / "tokenizer_config.json").is_file():
        raise ConfigError(f"--model {path} holds no tokenizer (tokenizer_config.json)")


def write_generated(splits: task.Splits, folder: Path) -> dict[str, Path]:
    """Write the generated splits as parquet in GSM8K's layout; the files by split."""
    return {
        name: task.write_parquet(
            task.to_rows(getattr(splits, name), name), folder / f"{name}.parquet"
        )
        for name in SPLITS
    }


def write_given(
    train_file: Path, test_file: Path, folder: Path, *, n_dev: int, seed: int
) -> dict[str, Path]:
    """Bring the user's question files into the layout that verl trains on.

    Development questions are taken out of the training file, by seed; the test file is used for
    the evaluation alone.

    Raises:
        DataError: a file that cannot be used (the message names line and field).
        ConfigError: too few questions, or a question in both files.
    """
    train, test = load_task(train_file), load_task(test_file)
    if train.data_source != test.data_source:
        raise ConfigError(
            f"{train_file} holds {train.data_source} but {test_file} holds {test.data_source}; "
            "training and test questions must be of one task"
        )
    rows = [_row(question, "train") for question in train.questions]
    test_rows = [_row(question, "test") for question in test.questions]
    known = {_text(row) for row in test_rows}
    shared = [row for row in rows if _text(row) in known]
    if shared:
        raise ConfigError(
            f"{len(shared)} questions of {train_file} are in {test_file} too, for example "
            f"{_text(shared[0])[:60]!r}; a test must be held out"
        )
    count = min(n_dev, len(rows) // 5)
    if count < 1:
        raise ConfigError(f"{train_file} holds {len(rows)} questions; training needs at least 5")
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    parts = {
        "train": [row for i, row in enumerate(rows) if i not in chosen],
        "dev": [row for i, row in enumerate(rows) if i in chosen],
        "test": test_rows,
    }
    files = {}
    for name in SPLITS:
        numbered = [
            {**row, "extra_info": {**row["extra_info"], "split": name, "index": i}}
            for i, row in enumerate(parts[name])
        ]
        files[name] = task.write_parquet(numbered, folder / f"{name}.parquet")
    return files


def _row(question: Any, split: str) -> dict[str, Any]:
    extra: dict[str, Any] = {"split": split, "index": question.index}
    if question.solution is not None:
        extra["answer"] = question.solution
    return {
        "data_source": question.data_source,
        "prompt": [dict(message) for message in question.messages],
        "ability": task.ABILITY,
        "reward_model": {"style": "rule", "ground_truth": question.reference},
        "extra_info": extra,
    }


def _text(row: dict[str, Any]) -> str:
    return str(row["prompt"][-1]["content"])
