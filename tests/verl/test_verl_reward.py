"""Scoring: right answers get 1, wrong ones 0, in the forms that models write."""

from __future__ import annotations

import random
import sys

import pytest

from hetero_plugin.verl.reward import (
    compute_score,
    extract_exact,
    extract_gsm8k,
    gsm8k_flexible,
    gsm8k_strict,
)


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
    ("text", "reference", "strict", "flexible"),
    [
        ("She sells 9 eggs.\n#### 18", "18", 1.0, 1.0),
        ("#### 17\nno, wait\n#### 18", "18", 1.0, 1.0),
        ("The answer is 18", "18", 0.0, 1.0),
        ("The answer is 18.", "18", 0.0, 1.0),
        ("####18", "18", 0.0, 1.0),
        ("#### 1,234.5", "1234.5", 1.0, 1.0),
        ("#### $1,234.50", "1234.5", 0.0, 1.0),
        ("#### -3", "-3", 1.0, 1.0),
        ("#### 3", "-3", 0.0, 0.0),
        ("18 eggs, so 19", "18", 0.0, 0.0),
        ("#### none", "18", 0.0, 0.0),
        ("no number", "18", 0.0, 0.0),
        ("", "18", 0.0, 0.0),
        ("#### 18" + "x" * 301, "18", 0.0, 1.0),
    ],
)
def test_gsm8k_strictly_and_flexibly(
    text: str, reference: str, strict: float, flexible: float
) -> None:
    assert compute_score("openai/gsm8k", text, reference) == strict
    assert gsm8k_strict(text, reference) == strict
    assert gsm8k_flexible(text, reference) == flexible


def test_our_strict_rule_is_verls() -> None:
    """20,000 texts of the pieces that matter, seed fixed; 1 s."""
    gsm8k = pytest.importorskip("verl.utils.reward_score.gsm8k")
    rng = random.Random(0)
    pieces = [
        "#### ",
        "####",
        "$",
        "-",
        ".",
        ",",
        "18",
        "1,800",
        "1",
        " ",
        "\n",
        "x" * 150,
        "<|a|>",
    ]
    right = 0
    for _ in range(20_000):
        text = "".join(rng.choices(pieces, k=rng.randint(0, 9)))
        reference = rng.choice(["18", "1800", "-18", "1", "18.1"])
        expected = gsm8k.compute_score(text, reference)
        assert gsm8k_strict(text, reference) == expected, text
        right += int(expected)
    assert right > 150


def test_sources_of_verl_are_judged_by_verl() -> None:
    """A MATH answer in a box; ``0`` for the same answer as GSM8K writes it."""
    pytest.importorskip("verl")
    source = "DigitalLearningGmbH/MATH-lighteval"
    assert compute_score(source, r"so \boxed{\frac12}", r"\frac{1}{2}") == 1.0
    assert compute_score(source, r"#### \frac{1}{2}", r"\frac{1}{2}") == 0.0
    with pytest.raises(NotImplementedError, match="not implemented"):
        compute_score("nobody/knows", "18", "18")


def test_without_verl_gsm8k_alone_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verl.utils.reward_score", None)
    assert compute_score("openai/gsm8k", "#### 18", "18") == 1.0
    assert compute_score("openai/gsm8k", "it is 18", "18") == 0.0
    with pytest.raises(NotImplementedError, match=r"hetero-plugin\[verl\]"):
        compute_score("lighteval/MATH", "18", "18")


@pytest.mark.parametrize("reference", ["no number here", "9 * 2 = 18\n#### 18", ""])
def test_a_reference_without_an_answer_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        compute_score("openai/gsm8k", "#### 18", reference)
    with pytest.raises(ValueError, match="is empty"):
        compute_score("hetero_noise/addition", "18", " ")


def test_what_is_extracted() -> None:
    assert extract_exact("<|im_start|> 7 <|im_end|>") == "7"
    assert extract_gsm8k("12 and 13") == "13"
    assert extract_gsm8k("nothing") is None
