"""Scores an answer: 1.0 if the final answer is the reference's, else 0.0.

verl loads this file by path (``reward.custom_reward_function.path``) in its reward workers, so
it stands alone. The evaluation uses the same functions: training and testing count alike.

Two kinds of answer are known. GSM8K's ends in ``#### 42``; a model that writes no such line is
scored on the last number of its text, as is usual for that set. A generated arithmetic task's
answer is the whole text, and only that: ``12 or 13`` is no answer.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

_MARKED = re.compile(r"####\s*(\S[^\n]*)")
_NUMBER = re.compile(r"[-+]?\$?\s?\d[\d,]*(?:\.\d+)?")
_SPECIAL = re.compile(r"<\|[^|<>]*\|>")

_GSM8K_SOURCES = ("openai/gsm8k", "gsm8k")


def _number(text: str) -> Decimal | None:
    """The value of a number as people write it (``$1,234.50``), or None."""
    plain = text.strip().rstrip(".").replace(",", "").replace("$", "").replace(" ", "")
    try:
        value = Decimal(plain)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def extract_exact(text: str) -> str:
    """The answer of a generated task: all of the text but special tokens and outer space."""
    return _SPECIAL.sub("", text).strip()


def extract_gsm8k(text: str) -> str | None:
    """GSM8K's answer: what follows the last ``####``, else the last number; None without any."""
    plain = _SPECIAL.sub("", text)
    marked = _MARKED.findall(plain)
    numbers = _NUMBER.findall(marked[-1]) if marked else _NUMBER.findall(plain)
    if not numbers:
        return None
    return str(numbers[0] if marked else numbers[-1]).strip()


def is_gsm8k(data_source: str) -> bool:
    """True for the data sources that are scored in GSM8K's way."""
    return data_source in _GSM8K_SOURCES


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **_: Any,
) -> float:
    """1.0 for the reference's answer, else 0.0.

    ``ground_truth`` is the final answer alone (``42``); a whole GSM8K solution ending in
    ``#### 42`` is understood as well. Numbers are compared as numbers (``1,000`` is ``1000``).

    Raises:
        ValueError: ``ground_truth`` holds no answer, so that no text could ever be right.
    """
    if is_gsm8k(data_source) or "####" in ground_truth:
        wanted_text = extract_gsm8k(ground_truth)
        wanted = None if wanted_text is None else _number(wanted_text)
        if wanted is None:
            raise ValueError(
                f"ground_truth {ground_truth!r} of data source {data_source!r} holds no number; "
                "GSM8K's end in '#### <number>' or are the number alone"
            )
        given_text = extract_gsm8k(solution_str)
        given = None if given_text is None else _number(given_text)
        return float(given is not None and given == wanted)
    if not ground_truth.strip():
        raise ValueError(f"ground_truth of data source {data_source!r} is empty")
    return float(extract_exact(solution_str) == ground_truth.strip())
