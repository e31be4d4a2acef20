"""A mean over questions, training seeds and draws, and what each adds to its variance.

y[s, d, q] is what was right (or by how much two systems differ) with training seed s, under draw d
of the error, at question q; with sampled answers y[s, d, q, k]. The model is of a crossed design::

    y = mean + seed_s + draw_sd + question_q + (seed x question)_sq + rest

Questions are the same for every seed, so they don't average out over seeds, nor seeds over
questions; draws are nested in seeds, since each trained model meets them with weights of its own.
From the mean squares of seeds, questions and both together (MS_s, MS_q, MS_sq; N values in all),

    variance of the mean = (MS_s - MS_sq + MS_q) / N,

whose parts have Student factors of their own, the seeds' mean square whole and the questions'
without what they share with it:

    half-width^2 = t(S - 1)^2 MS_s / N + t(Q - 1)^2 (MS_q - MS_sq)+ / N.

Howe's (1974, JASA 69:789) takes MS_sq from the seeds instead, and covers only 91.8 % in studies of
right and wrong answers where seeds vary a little (scripts/verdicts.py); this one at least 95 %.

With one training seed the draws take the seeds' place, and the interval is about that checkpoint;
with one draw too, it is about this draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["Crossed", "crossed", "stacked", "word"]


@dataclass(frozen=True)
class Crossed:
    """A mean with its interval, and where its variance comes from."""

    value: float
    low: float
    high: float
    confidence: float
    p: float
    """Two-sided, that the mean is 0: one less the largest confidence without 0."""
    seeds: int
    draws: int
    questions: int
    samples: int
    shares: dict[str, float]
    """Of the mean's variance: questions, training seeds, noise draws, sampled answers, and the
    rest, which is how seeds and draws differ in the questions they get right. They add up to 1."""
    about: str
    """What the interval is about: ``training``, one ``checkpoint``, or one ``draw``."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def crossed(y: Any, confidence: float = 0.95, within: tuple[float, float] | None = None) -> Crossed:
    """The mean of a crossed design.

    Args:
        y: numbers [seeds, draws, questions] or [seeds, draws, questions, sampled answers].
        confidence: of the interval.
        within: where the mean can lie, such as (0, 1) of an accuracy: the interval ends there too.

    Raises:
        ValueError: fewer than two questions, other dimensions, or a number that is not finite.
    """
    values = np.asarray(y, dtype=np.float64)
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or values.shape[2] < 2 or 0 in values.shape:
        raise ValueError(
            f"y has shape {list(values.shape)}; it should be [seeds, draws, questions] (and "
            "sampled answers), with two questions or more"
        )
    if not np.isfinite(values).all():
        raise ValueError("y holds numbers that are not finite")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
    seeds, draws, questions, samples = values.shape
    means = values.mean(axis=3)
    about = "training" if seeds > 1 else "checkpoint" if draws > 1 else "draw"
    # What takes the part of the seeds: of one checkpoint its draws.
    parts = _parts(means if seeds > 1 else means.transpose(1, 0, 2))
    mean = float(values.mean())
    low, high = _interval(mean, parts, confidence)
    if within is not None:
        low, high = max(low, within[0]), min(high, within[1])
    return Crossed(
        value=mean,
        low=low,
        high=high,
        confidence=confidence,
        p=_p(mean, parts),
        seeds=seeds,
        draws=draws,
        questions=questions,
        samples=samples,
        shares=_shares(values),
        about=about,
    )


def word(value: float, low: float, high: float, margin: float, p_adjusted: float) -> str:
    """EQUIVALENT, IMPROVED, DEGRADED or UNDECIDED, of a difference.

    Args:
        value: the difference.
        low, high: its interval at a confidence of 0.9, which is two one-sided tests at 0.05.
        margin: fixed beforehand.
        p_adjusted: that it is 0, adjusted over the comparisons that were declared.
    """
    if -margin < low and high < margin:
        return "EQUIVALENT"
    if p_adjusted < 0.05:
        return "IMPROVED" if value > 0 else "DEGRADED"
    return "UNDECIDED"


@dataclass(frozen=True)
class _Parts:
    """The two parts of the mean's variance, with their degrees of freedom."""

    between: float
    groups: int
    questions: float
    count: int


def _parts(means: np.ndarray[Any, Any]) -> _Parts:
    """Of [groups, others, questions]."""
    groups, others, count = means.shape
    cells = means.mean(axis=1)
    whole, by_question = cells.mean(), cells.mean(axis=0)
    ms_q = others * groups * float(((by_question - whole) ** 2).sum()) / (count - 1)
    if groups == 1:
        return _Parts(0.0, 1, ms_q / means.size, count)
    by_group = cells.mean(axis=1)
    ms_g = others * count * float(((by_group - whole) ** 2).sum()) / (groups - 1)
    rest = cells - by_group[:, None] - by_question[None, :] + whole
    ms_gq = others * float((rest**2).sum()) / ((groups - 1) * (count - 1))
    own = max(ms_q - ms_gq, 0.0)  # of the questions alone
    return _Parts(ms_g / means.size, groups, own / means.size, count)


def _half(parts: _Parts, confidence: float) -> float:
    from scipy.special import stdtrit  # the quantile of Student's t

    level = 0.5 + confidence / 2
    square = float(stdtrit(parts.count - 1, level)) ** 2 * parts.questions
    if parts.groups > 1:
        square += float(stdtrit(parts.groups - 1, level)) ** 2 * parts.between
    return float(square**0.5)


def _interval(mean: float, parts: _Parts, confidence: float) -> tuple[float, float]:
    half = _half(parts, confidence)
    return mean - half, mean + half


def _p(mean: float, parts: _Parts) -> float:
    """One less the confidence at which the interval just reaches 0."""
    if mean == 0 or parts.between + parts.questions == 0:
        return 1.0 if mean == 0 else 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _half(parts, middle) < abs(mean) else (low, middle)
    return 1.0 - low


def _shares(values: np.ndarray[Any, Any]) -> dict[str, float]:
    """Estimates of what each source adds to the variance of the mean, each at least 0."""
    seeds, draws, questions, samples = values.shape
    means = values.mean(axis=3)
    whole = means.mean()
    by_seed, by_question = means.mean(axis=(1, 2)), means.mean(axis=(0, 1))
    by_pair, by_draw = means.mean(axis=1), means.mean(axis=2)
    size = seeds * draws * questions

    def mean_square(total: float, freedom: int) -> float | None:
        return total / freedom if freedom > 0 else None

    inner = means - by_draw[:, :, None] - by_pair[:, None, :] + by_seed[:, None, None]
    ms_e = mean_square(float((inner**2).sum()), seeds * (draws - 1) * (questions - 1)) or 0.0
    within = by_draw - by_seed[:, None]
    ms_d = mean_square(questions * float((within**2).sum()), seeds * (draws - 1))
    rest = by_pair - by_seed[:, None] - by_question[None, :] + whole
    ms_sq = mean_square(draws * float((rest**2).sum()), (seeds - 1) * (questions - 1))
    ms_s = mean_square(draws * questions * float(((by_seed - whole) ** 2).sum()), seeds - 1)
    ms_q = seeds * draws * float(((by_question - whole) ** 2).sum()) / (questions - 1)
    base = ms_sq if ms_sq is not None else ms_e
    of_draws = 0.0 if ms_d is None else max(ms_d - ms_e, 0.0)
    of_seeds = 0.0 if ms_s is None else max(ms_s - base - of_draws, 0.0)
    of_samples = float(values.var(axis=3, ddof=1).mean()) / samples if samples > 1 else 0.0
    parts = {
        "questions": max(ms_q - base, 0.0) / size,
        "training seeds": of_seeds / size,
        "noise draws": of_draws / size,
        "sampled answers": min(of_samples, base) / size,
    }
    parts["rest"] = max(base / size - parts["sampled answers"], 0.0)
    total = sum(parts.values())
    return {name: part / total if total else 0.0 for name, part in parts.items()}


def stacked(rows: Sequence[Sequence[Sequence[float]]]) -> np.ndarray[Any, Any]:
    """Nested lists [seeds][draws][questions] as one array.

    Raises:
        ValueError: they are not of one size.
    """
    sizes = {len(draw) for seed in rows for draw in seed}
    if len(sizes) != 1 or len({len(seed) for seed in rows}) != 1:
        raise ValueError("every seed needs the same draws, and every draw the same questions")
    return np.asarray(rows, dtype=np.float64)
