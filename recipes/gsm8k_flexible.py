"""Judges GSM8K by the last number of an answer, for models that don't end in "#### N".

verl's own rule in its flexible form, as a reward function; give it to training and evaluation:

    hetero-noise eval … --reward recipes/gsm8k_flexible.py:score
"""

from __future__ import annotations

from typing import Any


def score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **_: Any,
) -> float:
    """1.0 if the last number of the answer's last 300 characters is the reference, else 0.0."""
    from verl.utils.reward_score import gsm8k

    return float(gsm8k.compute_score(solution_str, ground_truth, method="flexible"))
