"""How sure a mean over questions is, when questions, training seeds and draws of the error vary.

An accuracy, or a difference of two, is a mean over training runs m, draws of the error d of each,
and questions q, which all runs and draws answer: y[m, d, q], over one or more sampled answers each.
Another training run, another draw and other questions would give another mean. The analysis of
variance of this crossed design says how much each contributes. What is estimated from three runs
has two degrees of freedom and takes Student's t with those; questions, of which there are many,
take their own. Pooling both by Satterthwaite's rule covers too little with so few runs (92 %).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

SOURCES = (
    "questions",
    "training seeds",
    "noise draws",
    "questions × seeds",
    "questions × draws",
    "sampled answers",
)


def interval(values: np.ndarray, confidence: float = 0.95) -> dict[str, Any]:
    """The mean with its interval, and what of its variance comes from where.

    Args:
        values: float [M, D, S, Q]: training runs, draws of the error in each, sampled answers,
            questions. A source of which there is one can't be seen: the interval then is for that
            run, or that draw, and ``fixed`` names it.
        confidence: of the interval.

    Returns:
        ``value``, ``low``, ``high``, ``standard_error``; ``shares``:
        source -> its share of the variance of the mean, of those that can be seen, in sum 1 (a
        component estimated under 0 counts as 0); ``fixed``: the sources of which there is one.

    Raises:
        ValueError: fewer than two questions, or another shape.
    """
    from scipy.stats import t

    if values.ndim != 4 or values.shape[3] < 2:
        raise ValueError(
            f"values have the shape {values.shape}; [M, D, S, Q] with Q >= 2 is needed"
        )
    runs, draws, samples, questions = values.shape
    cells = values.mean(2)  # [M, D, Q]
    mean = float(cells.mean())
    squares = _mean_squares(cells)
    # The outermost source of which there are several, and how it varies from question to question.
    outer, crossed, several = squares["seeds"], squares["seeds × questions"], runs
    if runs == 1:
        outer, crossed, several = squares["draws"], squares["rest"], draws
    asked = squares["questions"]
    if several > 1:
        asked = max(asked - crossed, 0.0)
    share = 0.5 + confidence / 2
    wide = outer * float(t.ppf(share, several - 1)) ** 2 if several > 1 else 0.0
    wide += asked * float(t.ppf(share, questions - 1)) ** 2
    half = (wide / (runs * draws * questions)) ** 0.5
    error = ((asked + outer) / (runs * draws * questions)) ** 0.5
    return {
        "value": mean,
        "low": mean - half,
        "high": mean + half,
        "standard_error": float(error),
        "shares": _shares(values, squares),
        "fixed": [name for name, count in (("training seeds", runs), ("noise draws", draws),
                                           ("sampled answers", samples)) if count == 1],
        "counts": {"training seeds": runs, "noise draws": draws, "sampled answers": samples,
                   "questions": questions},
    }  # fmt: skip


def _mean_squares(cells: np.ndarray) -> dict[str, float]:
    """Mean squares of [M, D, Q], draws within runs, both crossed with questions; else 0."""
    runs, draws, questions = cells.shape
    mean = cells.mean()
    by_run, by_question = cells.mean((1, 2)), cells.mean((0, 1))
    by_draw, by_both = cells.mean(2), cells.mean(1)
    sums = {
        "seeds": draws * questions * ((by_run - mean) ** 2).sum(),
        "draws": questions * ((by_draw - by_run[:, None]) ** 2).sum(),
        "questions": runs * draws * ((by_question - mean) ** 2).sum(),
        "seeds × questions": draws
        * ((by_both - by_run[:, None] - by_question[None] + mean) ** 2).sum(),
        "rest": (
            (cells - by_draw[..., None] - by_both[:, None] + by_run[:, None, None]) ** 2
        ).sum(),
    }
    freedom = {
        "seeds": runs - 1,
        "draws": runs * (draws - 1),
        "questions": questions - 1,
        "seeds × questions": (runs - 1) * (questions - 1),
        "rest": runs * (draws - 1) * (questions - 1),
    }
    return {name: float(sums[name] / freedom[name]) if freedom[name] else 0.0 for name in sums}


def _shares(values: np.ndarray, squares: Mapping[str, float]) -> dict[str, float]:
    """What each source adds to the variance of the mean, over the sum of all."""
    runs, draws, samples, questions = values.shape
    size = runs * draws * questions
    rest, crossed = squares["rest"], squares["seeds × questions"]
    below = crossed if runs > 1 else rest  # what the means of questions hold beside themselves
    parts = dict.fromkeys(SOURCES, 0.0)
    parts["questions"] = squares["questions"] - below
    if draws > 1:
        parts["noise draws"] = squares["draws"] - rest
        parts["questions × draws"] = rest
    if runs > 1:
        under = crossed if draws == 1 else squares["draws"] + crossed - rest
        parts["training seeds"] = squares["seeds"] - under
        parts["questions × seeds"] = crossed - rest
    if samples > 1:
        own = float(values.var(2, ddof=1).mean()) / samples
        parts["sampled answers"] = own
        # It is in the lowest stratum that there is.
        for name in ("questions × draws", "questions × seeds", "questions"):
            if parts[name] > 0:
                parts[name] -= own
                break
    kept = {name: max(value, 0.0) / size for name, value in parts.items()}
    total = sum(kept.values())
    return {name: value / total if total else 0.0 for name, value in kept.items() if value}
