"""Tasks: question files, prompts and scoring, the same for GSM8K and for generated arithmetic.

Three layouts are read, told apart by their fields:

* GSM8K as JSON Lines or parquet: ``question`` and ``answer``, the answer ending in ``#### N``;
* verl's parquet: ``prompt`` (chat messages) and ``reward_model.ground_truth``;
* the generated arithmetic, which is verl's layout with a data source of its own.

How an answer is judged is not decided here, but in ``evaluation.scoring``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetero_plugin.config.problems import ConfigError

GSM8K = "openai/gsm8k"
# The instruction that verl's GSM8K preprocessing appends; models trained there expect it.
GSM8K_INSTRUCTION = 'Let\'s think step by step and output the final answer after "####".'

_REFERENCE = re.compile(r"####\s*(-?[0-9][0-9.,]*)\s*$")


class DataError(ConfigError):
    """A question file that can't be used; the message names file, line or row, and the lack."""


@dataclass(frozen=True)
class Question:
    """One question: chat messages, the reference answer, and the worked solution if given.

    ``extra`` is what the file holds for the scorer beside the answer (verl's ``extra_info``).
    """

    index: int
    messages: tuple[Mapping[str, str], ...]
    reference: str
    data_source: str
    solution: str | None = None
    extra: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Task:
    """A question file, read. ``sha256`` is that of the file's bytes."""

    path: str
    layout: str  # "gsm8k" or "verl"
    data_source: str
    sha256: str
    total: int  # questions in the file, before any limit
    questions: tuple[Question, ...]

    def __len__(self) -> int:
        return len(self.questions)


def load_task(path: str | Path, limit: int | None = None) -> Task:
    """Reads a question file.

    Args:
        path: ``.jsonl`` or ``.parquet`` in one of the layouts above.
        limit: only the first so many questions; None means all.

    Raises:
        DataError: no such file, unknown layout, or a record without what it needs.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise DataError(f"n must be at least 1 question, got {limit}")
    if not path.is_file():
        hint = _candidates(path)
        raise DataError(f"{path}: no such question file{hint}")
    if path.suffix not in _READERS:
        raise DataError(
            f"{path}: unknown kind of file {path.suffix!r}; expected .jsonl or .parquet"
        )
    questions: list[Question] = []
    layouts: set[str] = set()
    for where, record in _READERS[path.suffix](path):
        layout, question = _question(where, len(questions), record)
        layouts.add(layout)
        questions.append(question)
    if not questions:
        raise DataError(f"{path}: holds no questions")
    if len(layouts) > 1:
        raise DataError(f"{path}: mixes records in the layouts {sorted(layouts)}")
    sources = sorted({question.data_source for question in questions})
    if len(sources) > 1:
        raise DataError(
            f"{path}: mixes the data sources {sources}; split it, one accuracy can't mean both"
        )
    return Task(
        path=str(path),
        layout=layouts.pop(),
        data_source=sources[0],
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        total=len(questions),
        questions=tuple(questions[:limit]),
    )


def reference_answer(solution: str) -> str | None:
    """The number after ``####`` at the end of a GSM8K solution, without thousands commas."""
    found = _REFERENCE.search(solution)
    return found.group(1).replace(",", "").rstrip(".") if found else None


def prompt_ids(tokenizer: Any, question: Question) -> list[int]:
    """Token ids of a question's prompt: the tokenizer's chat template, ready for the answer.

    Raises:
        DataError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise DataError(
            f"the tokenizer of {name} has no chat template, so its prompts are undefined; "
            "evaluate an instruction-tuned checkpoint, or save one with a chat_template"
        )
    ids = tokenizer.apply_chat_template(
        [dict(message) for message in question.messages],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    return [int(token) for token in ids]


def _question(where: str, index: int, record: Mapping[str, Any]) -> tuple[str, Question]:
    if "prompt" in record or "reward_model" in record:
        return "verl", _verl_question(where, index, record)
    if "question" in record or "answer" in record:
        return "gsm8k", _gsm8k_question(where, index, record)
    raise DataError(
        f"{where}: has the fields {sorted(record)}; expected question and answer (GSM8K), "
        "or prompt and reward_model (verl)"
    )


def _gsm8k_question(where: str, index: int, record: Mapping[str, Any]) -> Question:
    for key in ("question", "answer"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise DataError(f"{where}: {key!r} is missing or not a text: {record.get(key)!r:.60}")
    reference = reference_answer(record["answer"])
    if reference is None:
        raise DataError(
            f"{where}: the answer does not end in '#### N' with a number N: "
            f"...{record['answer'][-40:]!r}"
        )
    content = f"{record['question']} {GSM8K_INSTRUCTION}"
    return Question(
        index=index,
        messages=({"role": "user", "content": content},),
        reference=reference,
        data_source=GSM8K,
        solution=record["answer"],
    )


def _verl_question(where: str, index: int, record: Mapping[str, Any]) -> Question:
    prompt = record.get("prompt")
    if not isinstance(prompt, Sequence) or isinstance(prompt, str) or not prompt:
        raise DataError(f"{where}: 'prompt' must be a list of chat messages, got {prompt!r:.60}")
    messages = []
    for message in prompt:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise DataError(
                f"{where}: each message of 'prompt' needs role and content, got {message!r:.60}"
            )
        messages.append({"role": str(message["role"]), "content": str(message["content"])})
    reward_model = record.get("reward_model")
    truth = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    if truth is None or not str(truth).strip():
        raise DataError(f"{where}: 'reward_model.ground_truth' is missing: {reward_model!r:.60}")
    source = record.get("data_source")
    if not isinstance(source, str) or not source:
        raise DataError(f"{where}: 'data_source' is missing, so no scoring rule is known")
    extra = record.get("extra_info")
    solution = extra.get("answer") if isinstance(extra, Mapping) else None
    return Question(
        index=index,
        messages=tuple(messages),
        reference=str(truth),
        data_source=source,
        solution=solution,
        extra=extra if isinstance(extra, Mapping) else None,
    )


def _read_jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not in UTF-8, at byte {error.start}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as exc:
            raise DataError(f"{where}: not JSON: {exc.msg} at column {exc.colno}") from exc
        except (ValueError, RecursionError) as exc:
            raise DataError(f"{where}: not JSON: {exc}") from exc
        if not isinstance(record, dict):
            raise DataError(f"{where}: expected a JSON object, got {type(record).__name__}")
        yield where, record


def _read_parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as exc:  # pragma: no cover - depends on the installation
        raise ImportError(
            "reading parquet needs pyarrow; install it with: pip install 'hetero-plugin[eval]'"
        ) from exc
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as exc:
        raise DataError(f"{path}: not a readable parquet file: {exc}") from exc
    for number, record in enumerate(table.to_pylist()):
        yield f"{path}, row {number}", record


_READERS = {".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _candidates(path: Path) -> str:
    """The question files beside or inside a wrong path, for the error message."""
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return ""
    found = sorted(p.name for p in folder.iterdir() if p.suffix in (".jsonl", ".parquet"))
    return f"; {folder} holds {', '.join(found[:6])}" if found else ""
