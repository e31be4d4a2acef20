"""Scores an answer: 1.0 if the final answer is the reference's, else 0.0.

verl loads this file by path (``reward.custom_reward_function.path``) in its reward workers, so
it stands alone. The evaluation judges by it too: training and testing count alike.

* A generated task's answer is the whole text, and only that: ``12 or 13`` is no answer.
* Every other data source is judged by verl's own ``default_compute_score``: GSM8K strictly, by the
  number after ``####``; MATH by its ``\\boxed{}``; a source that verl doesn't know is an error.
* Where verl is not installed, GSM8K is judged by the same rule written here (tests hold the two
  equal), and any other source is an error.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

GENERATED = "hetero_noise/"
GSM8K = "openai/gsm8k"

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_STRICT_WINDOW = 300  # characters: verl looks at the end of an answer alone
_MARKED = re.compile(r"####\s*(\S[^\n]*)")
_NUMBER = re.compile(r"[-+]?\$?\s?\d[\d,]*(?:\.\d+)?")
_SPECIAL = re.compile(r"<\|[^|<>]*\|>")


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """1.0 for the reference's answer, else 0.0; what verl gives for a source of its own.

    ``ground_truth`` is the final answer alone (``42``).

    Raises:
        ValueError: ``ground_truth`` holds no answer, so that no text could ever be right.
        NotImplementedError: no scorer is known for the data source.
    """
    if data_source.startswith(GENERATED):
        if not ground_truth.strip():
            raise ValueError(f"ground_truth of data source {data_source!r} is empty")
        return float(extract_exact(solution_str) == ground_truth.strip())
    if data_source == GSM8K and not is_number(ground_truth):
        raise ValueError(
            f"ground_truth {ground_truth!r} of data source {data_source!r} is no number; it "
            "should be the final answer alone, such as '42'"
        )
    try:
        from verl.utils.reward_score import default_compute_score
    except ImportError:
        if data_source == GSM8K:
            return gsm8k_strict(solution_str, ground_truth)
        raise NotImplementedError(
            f"data source {data_source!r} is judged by verl's scorer, and verl is not installed: "
            "pip install 'hetero-plugin[verl]', or give a reward function of your own"
        ) from None
    return default_compute_score(data_source, solution_str, ground_truth, extra_info, **options)


def is_number(text: str) -> bool:
    """Whether a text is one number, as people write it."""
    return _number(text) is not None


def gsm8k_strict(text: str, reference: str) -> float:
    """verl's rule for GSM8K: the number after the last ``#### `` is the reference, as a string."""
    found = _STRICT.findall(text[-_STRICT_WINDOW:])
    return float(bool(found) and found[-1].replace(",", "") == reference)


def gsm8k_flexible(text: str, reference: str) -> float:
    """A lenient rule: the number after ``####``, else the text's last one, equals the reference.

    Numbers are compared as numbers: ``$1,000.`` is ``1000``. No training is rewarded by it; it
    shows beside the strict score how much of an error is one of form.
    """
    given_text = extract_gsm8k(text)
    given = None if given_text is None else _number(given_text)
    return float(given is not None and given == _number(reference))


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


def _number(text: str) -> Decimal | None:
    """The value of a number as people write it (``$1,234.50``), or None."""
    plain = text.strip().rstrip(".").replace(",", "").replace("$", "").replace(" ", "")
    try:
        value = Decimal(plain)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
