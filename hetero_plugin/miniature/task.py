"""The generated task: addition of natural numbers, written in GSM8K's parquet layout.

A question is "347+682"; its answer is the sum in plain digits. Operands have a fixed number of
digits, so every prompt has one length and nothing is padded. The splits (test, development,
training) are disjoint whatever the order of operands: 347+682 in the test keeps 682+347 out of
training too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DATA_SOURCE = "hetero_noise/addition"
ABILITY = "math"


class TaskError(ValueError):
    """A task that cannot be generated as asked (too few distinct questions, bad digits)."""


@dataclass(frozen=True, slots=True)
class Question:
    """One addition: `prompt` is the user's message, `answer` the reference answer."""

    operands: tuple[int, ...]

    @property
    def prompt(self) -> str:
        return "+".join(str(value) for value in self.operands)

    @property
    def answer(self) -> str:
        return str(sum(self.operands))

    @property
    def key(self) -> tuple[int, ...]:
        """The operands without order: what must not occur in two splits."""
        return tuple(sorted(self.operands))


@dataclass(frozen=True, slots=True)
class Splits:
    """Disjoint question sets. `held_out` are the keys that no training may use."""

    train: tuple[Question, ...]
    dev: tuple[Question, ...]
    test: tuple[Question, ...]

    @property
    def held_out(self) -> frozenset[tuple[int, ...]]:
        return frozenset(q.key for q in (*self.dev, *self.test))


def operand_range(digits: int) -> tuple[int, int]:
    """Smallest and largest operand with exactly `digits` digits (no leading zero)."""
    if not 1 <= digits <= 9:
        raise TaskError(f"digits: got {digits}; give a number of digits from 1 to 9")
    return (10 ** (digits - 1) if digits > 1 else 0), 10**digits - 1


def sample(rng: random.Random, digits: int, operands: int = 2) -> Question:
    """One question; each operand is uniform among the `digits`-digit numbers."""
    low, high = operand_range(digits)
    return Question(tuple(rng.randint(low, high) for _ in range(operands)))


def make_splits(
    *, digits: int, operands: int, n_train: int, n_dev: int, n_test: int, seed: int
) -> Splits:
    """Draw the three splits from one seed, disjoint as unordered pairs.

    The test is drawn first, so that it stays the same whatever `n_train` and `n_dev` are.

    Raises:
        TaskError: fewer distinct unordered pairs exist than were asked for.
    """
    low, high = operand_range(digits)
    count = high - low + 1
    available = count * (count + 1) // 2
    wanted = n_train + n_dev + n_test
    if wanted > available // 2:
        raise TaskError(
            f"{wanted} questions asked for (train {n_train}, dev {n_dev}, test {n_test}), but "
            f"{digits}-digit addition has {available} distinct pairs and at most half may be "
            f"used; ask for fewer questions or for more digits"
        )
    rng = random.Random(seed)
    seen: set[tuple[int, ...]] = set()

    def draw(n: int) -> tuple[Question, ...]:
        questions: list[Question] = []
        while len(questions) < n:
            question = sample(rng, digits, operands)
            if question.key not in seen:
                seen.add(question.key)
                questions.append(question)
        return tuple(questions)

    test = draw(n_test)
    dev = draw(n_dev)
    return Splits(train=draw(n_train), dev=dev, test=test)


def training_stream(
    *, digits: int, operands: int, seed: int, held_out: frozenset[tuple[int, ...]]
) -> Iterator[Question]:
    """Endless training questions that never touch a held-out key."""
    rng = random.Random(f"warmup-{seed}")
    while True:
        question = sample(rng, digits, operands)
        if question.key not in held_out:
            yield question


def to_rows(questions: Sequence[Question], split: str) -> list[dict[str, object]]:
    """Rows in the layout verl's GSM8K preprocessing writes (one dict a question)."""
    return [
        {
            "data_source": DATA_SOURCE,
            "prompt": [{"role": "user", "content": q.prompt}],
            "ability": ABILITY,
            "reward_model": {"style": "rule", "ground_truth": q.answer},
            "extra_info": {"split": split, "index": index},
        }
        for index, q in enumerate(questions)
    ]


def write_parquet(rows: Sequence[dict[str, object]], path: Path) -> Path:
    """Write rows as one parquet file, replacing it only when it is complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist(list(rows)), partial)
    partial.replace(path)
    return path
