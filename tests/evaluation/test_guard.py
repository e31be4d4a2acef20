"""What stands against a verdict: answers cut off, empty, or at the floor."""

from __future__ import annotations

import pytest

from hetero_plugin.evaluation import guard, results


def row(right: int, n: int = 1000, **more: object) -> dict:
    return {"outcomes": [1] * right + [0] * (n - right), **more}


@pytest.mark.parametrize(("share", "found"), [(0.05, 0), (0.0501, 1), (None, 0)])
def test_more_than_a_twentieth_cut_off(share: float | None, found: int) -> None:
    reasons = guard.reasons(row(600, truncated_share=share), "the clean answers")
    assert len(reasons) == found
    assert all("of the clean answers were cut off" in reason for reason in reasons)


def test_empty_answers() -> None:
    texts = [" \n"] * 51 + ["12"] * 949
    assert "5.1 % of its answers are empty" in guard.reasons(row(600, texts=texts))[0]
    assert guard.reasons(row(600, texts=["12"] * 1000)) == []


@pytest.mark.parametrize(
    ("right", "chance", "stands"),
    [
        (0, 0.0, True),
        (1, 0.0, True),
        (20, 0.0, True),  # 2 %: all of it may be lost within the margin
        (60, 0.0, False),
        (260, 0.25, True),
        (290, 0.25, True),  # its interval reaches 26.3 %
        (400, 0.25, False),
    ],
)
def test_the_floor(right: int, chance: float, stands: bool) -> None:
    found = guard.floor_reason(row(right)["outcomes"], chance, 0.02)
    assert (found is not None) == stands
    assert not stands or ("chance (25 %)" if chance else "above 0") in str(found)


def test_an_all_wrong_model_is_not_equivalent_to_itself() -> None:
    document = results.new({"n": 1319, "margin": 0.02})
    for level in (0.0, 0.05):
        document["levels"].append({"level": level, **row(0, 1319, truncated_share=0.0)})
    (found,) = results.within(document, 0.02)
    assert found["equivalence"]["equivalent"], "the test alone would be fooled"
    assert len(found["no_verdict"]) == 1 and "losing everything" in found["no_verdict"][0]


def test_both_sides_are_looked_at() -> None:
    found = guard.pair_reasons(
        row(600), row(580, truncated_share=0.3), margin=0.02, names=("A", "B")
    )
    assert found == [
        "30.0 % of B were cut off at the limit of tokens (at most 5 % may be): raise --max-tokens"
    ]
