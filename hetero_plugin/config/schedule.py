"""σ of adaptive quantisation noise (AQN), step by step: arithmetic on numbers, nothing else.

Steps count from 0. A trainer that counts from 1 passes its counter minus one. A step at or
after the end keeps the last value, so that a run that goes on longer than planned keeps the
smallest noise rather than falling back to none.

Formulas: QeRL (arXiv 2510.11696) and its released ``noise_scheduler.py``; the epoch-aware form
restarts the decay in each epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from hetero_plugin.config.problems import ConfigError, shown

__all__ = [
    "constant",
    "cosine",
    "epoch_ladders",
    "epoch_sigma",
    "geometric",
    "geometric_ranges",
    "global_ladder",
    "linear",
    "stage_of",
    "staged_sigma",
]


def check_step(step: int) -> int:
    """Raises ConfigError unless ``step`` is an integer ≥ 0."""
    if isinstance(step, bool) or not isinstance(step, int):
        raise ConfigError(f"step: got {shown(step)}; it should be an integer ≥ 0.")
    if step < 0:
        raise ConfigError(f"step: got {shown(step)}; steps count from 0.")
    if step >= 2**63:
        raise ConfigError(f"step: got {shown(step)}; no draw is addressed by a step ≥ 2⁶³.")
    return step


def geometric(start: float, end: float, count: int) -> tuple[float, ...]:
    """``count`` values from ``start`` to ``end`` with one ratio between neighbours.

    Both ends are exact, not the result of a power. A single value is ``start``: the exponent
    i/(count−1) is 0/0 there, and the NaN that it gave elsewhere reached the weights.

    Raises:
        ConfigError: a value that is not positive (a ratio to or from 0 does not exist), or
            ``count`` < 1.
    """
    if count < 1:
        raise ConfigError(f"geometric: got {count} stages; it takes at least 1.")
    for name, value in (("start", start), ("end", end)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(
                f"sigma {name}: got {value!r}; a geometric decay needs finite values > 0. "
                "To decay to zero use the schedule 'linear' or 'cosine'."
            )
    if count == 1:
        return (start,)
    ratio = end / start
    inner = (start * ratio ** (i / (count - 1)) for i in range(1, count - 1))
    return (start, *inner, end)


def global_ladder(start: float, end: float, stages: int) -> tuple[float, ...]:
    """σ of each of ``stages`` stages: 0, then σ_i = start·(end/start)^(i/(stages−2)).

    With two stages the one noisy stage has ``start``.

    Raises:
        ConfigError: fewer than two stages. The first is always clean, so a single one would be
            a run without any noise.
    """
    if stages < 2:
        raise ConfigError(
            f"stages: got {stages}; the schedule 'global' starts with a clean stage, so that "
            "fewer than 2 would never add noise. For a fixed σ use the schedule 'constant'."
        )
    return (0.0, *geometric(start, end, stages - 1))


def geometric_ranges(start: float, end: float, epochs: int) -> tuple[tuple[float, float], ...]:
    """(start, end) of each epoch, such that one geometric decay runs through all of them."""
    bounds = geometric(start, end, epochs + 1)
    return tuple(pairwise(bounds))


def epoch_ladders(
    ranges: Sequence[tuple[float, float]], stages_per_epoch: int
) -> tuple[tuple[float, ...], ...]:
    """For each epoch the σ of its warm-up stage (0) and of its ``stages_per_epoch`` noisy ones."""
    return tuple((0.0, *geometric(start, end, stages_per_epoch)) for start, end in ranges)


def stage_of(step: int, steps: int, stages: int) -> int:
    """Index of the stage that ``step`` falls in, of ``stages`` equal ones over ``steps`` steps.

    Integer arithmetic: a quotient of floats puts some boundary steps one stage too early.
    """
    return min(step * stages // steps, stages - 1)


def staged_sigma(ladder: Sequence[float], step: int, steps: int) -> float:
    """σ at ``step`` of a run of ``steps`` steps in equal stages, one per rung of ``ladder``."""
    return ladder[stage_of(check_step(step), steps, len(ladder))]


def epoch_sigma(ladders: Sequence[Sequence[float]], step: int, steps_per_epoch: int) -> float:
    """σ at ``step`` where each epoch of ``steps_per_epoch`` steps has a ladder of its own."""
    epoch, within = divmod(check_step(step), steps_per_epoch)
    if epoch >= len(ladders):
        return ladders[-1][-1]
    return staged_sigma(ladders[epoch], within, steps_per_epoch)


def _progress(step: int, steps: int) -> float:
    """0 at the first step, 1 at the last and after it."""
    check_step(step)
    return min(step / (steps - 1), 1.0) if steps > 1 else 0.0


def constant(value: float, step: int) -> float:
    """``value`` at every step."""
    check_step(step)
    return value


def linear(start: float, end: float, step: int, steps: int) -> float:
    """A straight line from ``start`` at step 0 to ``end`` at step ``steps`` − 1."""
    t = _progress(step, steps)
    return start * (1.0 - t) + end * t


def cosine(start: float, end: float, step: int, steps: int) -> float:
    """Half a cosine from ``start`` at step 0 to ``end`` at step ``steps`` − 1."""
    t = _progress(step, steps)
    weight = 0.5 * (1.0 + math.cos(math.pi * t))
    return start * weight + end * (1.0 - weight)
