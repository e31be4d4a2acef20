"""Scoring: right answers get 1, wrong ones 0, in the forms that models write."""

from __future__ import annotations

import pytest

from hetero_plugin.verl.reward import compute_score, extract_exact, extract_gsm8k


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("1029", "1029", 1.0),
        (" 1029\n<|im_end|>", "1029", 1.0),
        ("1029<|im_end|><|endoftext|>", "1029", 1.0),
        ("1028", "1029", 0.0),
        ("01029", "1029", 0.0),
        ("1029 or 1030", "1029", 0.0),
        ("", "1029", 0.0),
    ],
)
def test_a_generated_task_is_scored_on_the_whole_text(
    text: str, reference: str, score: float
) -> None:
    assert compute_score("hetero_noise/addition", text, reference) == score


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("She sells 9 eggs.\n#### 18", "18", 1.0),
        ("#### 17\nno, wait\n#### 18", "18", 1.0),
        ("The answer is 18", "18", 1.0),
        ("The answer is 18.", "18", 1.0),
        ("#### $1,234.50", "1234.5", 1.0),
        ("#### -3", "-3", 1.0),
        ("#### 3", "-3", 0.0),
        ("18 eggs, so 19", "18", 0.0),
        ("#### none", "18", 0.0),
        ("no number", "18", 0.0),
        ("#### 18", "9 * 2 = <<9*2=18>>18\n#### 18", 1.0),
    ],
)
def test_gsm8k_is_scored_on_the_final_number(text: str, reference: str, score: float) -> None:
    assert compute_score("openai/gsm8k", text, reference) == score


def test_a_reference_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="holds no number"):
        compute_score("openai/gsm8k", "#### 18", "no number here")
    with pytest.raises(ValueError, match="is empty"):
        compute_score("hetero_noise/addition", "18", " ")


def test_what_is_extracted() -> None:
    assert extract_exact("<|im_start|> 7 <|im_end|>") == "7"
    assert extract_gsm8k("12 and 13") == "13"
    assert extract_gsm8k("nothing") is None
