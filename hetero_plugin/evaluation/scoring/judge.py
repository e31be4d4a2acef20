"""Judges answers as training does: by ``hetero_plugin.verl.reward``, or by a user's function.

verl's scorers run in a process of their own: importing verl would bring its hooks into the
process that holds the engine, which an evaluation must not have.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hetero_plugin.config.problems import ConfigError
from hetero_plugin.evaluation.scoring.sources import GENERATED, GSM8K, is_known, source_of
from hetero_plugin.evaluation.tasks import DataError, Question

_FULL = 1.0  # the score of a right answer, in verl and here


@dataclass(frozen=True)
class Verdicts:
    """Answers, judged.

    ``right``: 1 or 0 by the rule that training rewards. ``scores``: what the scorer gave.
    ``also``: 1 or 0 by other rules, by their names. ``by``: whose code judged.
    """

    right: list[int]
    scores: list[float]
    also: dict[str, list[int]]
    by: str


@dataclass(frozen=True)
class Judge:
    """One rule for all answers of an evaluation. ``scorer`` says it in words, for the header."""

    data_source: str
    scorer: str
    reward: Callable[..., Any] | None = None

    def judge(self, questions: Sequence[Question], texts: Sequence[str]) -> Verdicts:
        """Judges one text a question.

        Raises:
            DataError: the scorer raised, or gave something that is no number.
        """
        if len(questions) != len(texts):
            raise ValueError(f"got {len(questions)} questions and {len(texts)} texts")
        also: dict[str, list[int]] = {}
        if self.reward is not None:
            values, by = [_call(self.reward, q, t) for q, t in _pairs(questions, texts)], "user"
        elif self.data_source.startswith(GENERATED):
            score = _reward().compute_score
            values, by = [_call(score, q, t) for q, t in _pairs(questions, texts)], "hetero_noise"
        else:
            values, by = _in_child(questions, texts)
            if self.data_source == GSM8K:
                rule = _reward().gsm8k_flexible
                also["flexible"] = [int(rule(t, q.reference)) for q, t in _pairs(questions, texts)]
        scores = [_score(value, q) for value, q in zip(values, questions, strict=True)]
        right = [_right(v, s) for v, s in zip(values, scores, strict=True)]
        return Verdicts(right, scores, also, by)


def judge_of(questions: Sequence[Question], reward: str | None = None) -> Judge:
    """The judge of a question file; of an unknown source it is tried on the first question.

    Args:
        questions: at least one; all of one data source.
        reward: ``FILE.py:function``, called as verl calls a custom reward function:
            ``(data_source=, solution_str=, ground_truth=, extra_info=)``.

    Raises:
        ConfigError: no scorer is known for the source, or ``reward`` can't be loaded.
        DataError: the scorer raised on the first question, or a reference can't be right.
    """
    source = questions[0].data_source
    if reward is not None:
        function, digest = load_reward(reward)
        judge = Judge(source, f"{Path(reward).name} (sha256 {digest[:16]})", function)
    else:
        judge = Judge(source, source_of(source).scorer)
        if is_known(source):  # no need to ask verl, which takes seconds
            _check_known(source, questions)
            return judge
    judge.judge(questions[:1], ["no answer"])
    return judge


def _check_known(source: str, questions: Sequence[Question]) -> None:
    if source == GSM8K:
        for question in questions:
            if not _reward().is_number(question.reference):
                raise DataError(
                    f"question {question.index}: its reference {question.reference!r:.60} is no "
                    "number; GSM8K's is the final answer alone, such as '42'"
                )
    elif not source.startswith(GENERATED) and importlib.util.find_spec("verl") is None:
        raise ConfigError(
            f"data source {source!r} is judged by verl's scorer, and verl is not installed: "
            "pip install 'hetero-plugin[verl]', or give --reward FILE.py:function"
        )


def load_reward(place: str) -> tuple[Callable[..., Any], str]:
    """A user's reward function and the SHA-256 of its file.

    Args:
        place: ``FILE.py:function``.

    Raises:
        ConfigError: not of that form, no such file or function, or the file raises.
    """
    import hashlib

    file, _, name = place.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier():
        raise ConfigError(f"--reward {place!r}: give FILE.py:function, such as reward.py:score")
    if not path.is_file():
        raise ConfigError(f"--reward {place}: there is no file {path}")
    spec = importlib.util.spec_from_file_location("hetero_noise_user_reward", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--reward {place}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises
        raise ConfigError(f"--reward {place}: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"--reward {place}: {path} has no function {name!r}")
    return function, hashlib.sha256(path.read_bytes()).hexdigest()


def _pairs(questions: Sequence[Question], texts: Sequence[str]) -> Sequence[tuple[Question, str]]:
    return list(zip(questions, texts, strict=True))


def _call(function: Callable[..., Any], question: Question, text: str) -> Any:
    try:
        return function(
            data_source=question.data_source,
            solution_str=text,
            ground_truth=question.reference,
            extra_info=dict(question.extra or {}),
        )
    except Exception as error:  # whatever a scorer raises
        raise DataError(
            f"question {question.index}: the scorer raised {type(error).__name__}: {error}"
        ) from error


def _score(value: Any, question: Question) -> float:
    score = value.get("score") if isinstance(value, Mapping) else value
    if isinstance(score, int | float) and math.isfinite(score):
        return float(score)
    raise DataError(
        f"question {question.index}: the scorer gave {value!r:.80}; it should be a number, or a "
        "mapping with one under 'score'"
    )


def _right(value: Any, score: float) -> int:
    """Right by the scorer's own ``acc`` where it gives one, else by a full score."""
    if isinstance(value, Mapping) and isinstance(value.get("acc"), bool | int | float):
        return int(value["acc"] >= _FULL)
    return int(score >= _FULL)


def _in_child(questions: Sequence[Question], texts: Sequence[str]) -> tuple[list[Any], str]:
    rows = [
        [q.data_source, text, q.reference, dict(q.extra or {})]
        for q, text in _pairs(questions, texts)
    ]
    done = subprocess.run(
        [sys.executable, "-m", "hetero_plugin.evaluation.scoring.child"],
        input=json.dumps(rows, default=str),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise DataError(
            f"the scorer's process ended with {done.returncode} and no scores: {done.stderr[-500:]}"
        ) from None
    if "unknown" in answer:
        raise ConfigError(
            f"data source {questions[0].data_source!r}: {answer['unknown']}; give "
            "--reward FILE.py:function and --max-tokens"
        )
    if "error" in answer:
        raise DataError(f"question {questions[answer['at']].index}: {answer['error']}")
    return answer["scores"], answer["by"]


@functools.cache
def _reward() -> ModuleType:
    """``hetero_plugin/verl/reward.py``, loaded as verl loads it: by its path.

    Importing its package would install the hooks for verl, which an evaluation must not have.
    """
    path = Path(__file__).parents[2] / "verl" / "reward.py"
    spec = importlib.util.spec_from_file_location("hetero_noise_reward", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
