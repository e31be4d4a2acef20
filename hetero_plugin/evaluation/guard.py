"""What stands against a verdict: answers from which none may be drawn, and why.

Accuracy that is near the floor for a reason of the evaluation's own (answers cut off, empty, or
judged by the wrong rule) is equal at every noise level, and a test of equivalence accepts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hetero_plugin.evaluation import stats

MOST_TRUNCATED = 0.05
MOST_EMPTY = 0.05


def reasons(row: Mapping[str, Any], name: str = "its answers") -> list[str]:
    """Why a level's answers bear no verdict by themselves, as sentences; mostly none.

    Args:
        row: ``outcomes``, and where known ``truncated_share`` and ``texts``.
        name: what the answers are called in the sentences.
    """
    found = []
    cut = row.get("truncated_share")
    if cut is not None and cut > MOST_TRUNCATED:
        found.append(
            f"{100 * cut:.1f} % of {name} were cut off at the limit of tokens (at most "
            f"{100 * MOST_TRUNCATED:g} % may be): raise --max-tokens"
        )
    texts = row.get("texts")
    if texts:
        empty = sum(not text.strip() for text in texts) / len(texts)
        if empty > MOST_EMPTY:
            found.append(
                f"{100 * empty:.1f} % of {name} are empty (at most {100 * MOST_EMPTY:g} % may be)"
            )
    return found


def floor_reason(
    outcomes: Sequence[int], chance: float, margin: float, name: str = "the clean answers"
) -> str | None:
    """Why a reference accuracy is too near the floor to show a loss of the margin; mostly None.

    Args:
        outcomes: 1 and 0, of what others are compared with.
        chance: the accuracy of guessing; 0 for open answers.
        margin: a share.
    """
    found = stats.accuracy(outcomes)
    if found.low > chance + margin:
        return None
    floor = f"chance ({100 * chance:g} %)" if chance else "0"
    return (
        f"{name} are right in {100 * found.value:.1f} % [{100 * found.low:.1f}, "
        f"{100 * found.high:.1f}], which is not shown to be more than the margin of "
        f"{100 * margin:g} points above {floor}: losing everything would pass as equivalent"
    )


def pair_reasons(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    margin: float,
    chance: float = 0.0,
    names: tuple[str, str] = ("the clean answers", "the noisy answers"),
) -> list[str]:
    """Why two rows of answers bear no verdict on their difference; the first is the reference."""
    found = [*reasons(first, names[0]), *reasons(second, names[1])]
    floor = floor_reason(first["outcomes"], chance, margin, names[0])
    return [*found, floor] if floor is not None else found
