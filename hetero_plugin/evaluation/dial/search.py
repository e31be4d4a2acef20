"""A monotone root search for a scale, on fixed text and random numbers, and the root's interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation.fidelity.resample import Resamples, bounded

TARGETS = ("kl", "mean-dlogp", "ratio-out")
CLOSE = 2e-3  # of what is wanted, relative
NARROW = 1e-4  # of a bracket, relative: a share of tokens moves in steps
STEP = 0.02  # of what is wanted: the largest miss where the measure moves in steps
MOST = 60  # evaluations
AROUND = (0.5, 0.71, 1.0, 1.41, 2.0)  # of the root: where the curve for its interval is measured
LEAST_POWER = 0.25
STEEPEST = 6.0  # of a step down before the root is bracketed, in ln of the scale


@dataclass(frozen=True)
class Want:
    """A size of mismatch: the measure's name and its value."""

    measure: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Want:
        """A want of ``kl=0.015``, ``mean-dlogp=0.011`` or ``ratio-out=0.075``.

        Raises:
            ConfigError: another measure, or no value over 0 (of a share, between 0 and 1).
        """
        name, _, number = text.partition("=")
        name = name.strip()
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name not in TARGETS or not 0 < value < (1 if name == "ratio-out" else math.inf):
            raise ConfigError(
                f"--want {text!r}: it should be one of kl=NATS, mean-dlogp=NATS (over 0) and "
                "ratio-out=SHARE (between 0 and 1), such as kl=0.015, or accuracy-loss=2pp"
            )
        return cls(name, value)


@dataclass
class Curve:
    """The wanted measure as a function of the scale, as far as it was evaluated.

    Args:
        evaluate: scale -> sums [D, W] of the measure.
        resamples: of these windows and draws.
    """

    evaluate: Callable[[float], np.ndarray]
    resamples: Resamples
    sums: dict[float, np.ndarray] = field(default_factory=dict)

    def at(self, scale: float) -> float:
        """The mean over tokens and draws at a scale; measured once."""
        if scale not in self.sums:
            self.sums[scale] = self.evaluate(scale)
        return self.resamples.value(self.sums[scale])

    def points(self) -> list[tuple[float, float]]:
        """All that was evaluated, by scale."""
        return [(scale, self.at(scale)) for scale in sorted(self.sums)]

    @property
    def falls(self) -> bool:
        """Whether it falls somewhere by more than 1 %: then a root need not be the only one."""
        values = [value for _, value in self.points()]
        return any(b < 0.99 * a for a, b in pairwise(values))


def root(curve: Curve, want: Want, largest: float) -> float:
    """The scale at which the curve has the wanted value.

    Secants of the logarithms (KL grows about as a power of the scale), kept inside a bracket and
    halved where they don't help.

    Raises:
        ConfigError: the wanted value is not reached at the largest scale, is jumped over, or is
            exceeded at every scale that was tried.
    """
    high, top = largest, curve.at(largest)
    if top < want.value:
        raise ConfigError(
            f"--want {want.measure}={want.value:g}: not reached; the largest scale, {largest:g}, "
            f"gives {top:.4g}. Ask for less, or give a larger --largest where the error model has "
            "one (a number format's scale is at most 1)"
        )
    low, bottom, power = 0.0, 0.0, 2.0  # KL grows as the square of a small error
    while len(curve.sums) < MOST:
        if abs(top / want.value - 1) <= CLOSE:
            return high
        if low and high / low - 1 <= NARROW:
            return _at_a_step(curve, want, (low, bottom), (high, top))
        scale = _next(low, bottom, high, top, want.value, power)
        value = curve.at(scale)
        if abs(value / want.value - 1) <= CLOSE:
            return scale
        if value < want.value:
            low, bottom = scale, value
        else:
            power = max(math.log(top / value) / math.log(high / scale), LEAST_POWER)
            high, top = scale, value
    raise ConfigError(
        f"--want {want.measure}={want.value:g}: no scale found in {MOST} evaluations; the closest "
        f"are {low:.4g}, which gives {bottom:.4g}, and {high:.4g}, which gives {top:.4g}"
    )


def _at_a_step(
    curve: Curve, want: Want, below: tuple[float, float], above: tuple[float, float]
) -> float:
    """The closer side of a step too narrow to be halved, if either is close."""
    scale, value = min(below, above, key=lambda one: abs(one[1] - want.value))
    tokens = curve.resamples.tokens.sum()
    # A share of so many tokens has no values in between.
    allowed = 1 / tokens if want.measure == "ratio-out" else STEP * want.value
    if abs(value - want.value) <= allowed:
        return scale
    raise ConfigError(
        f"--want {want.measure}={want.value:g}: not to be had; at the scale {above[0]:.4g} the "
        f"measure jumps from {below[1]:.3g} to {above[1]:.3g}. More --tokens, more --draws, or "
        "--dtype float32, whose values lie closer, make it smoother"
    )


def _next(low: float, bottom: float, high: float, top: float, want: float, power: float) -> float:
    """A scale between two, at which a power law through both would have the wanted value."""
    if not low:
        # A little further than a power law leads, so that the root is bracketed.
        return high * math.exp(-min(STEEPEST, max(1.1 * math.log(top / want) / power, 0.1)))
    middle = math.sqrt(low * high)
    if not bottom > 0:
        return middle
    share = math.log(want / bottom) / math.log(top / bottom)
    # Away from the ends, so that the bracket shrinks from both sides.
    share = min(max(share, 0.02), 0.98)
    return math.exp(math.log(low) + share * math.log(high / low))


def interval(curve: Curve, want: Want, scale: float, largest: float) -> dict[str, Any]:
    """The root's 95 % interval over windows and draws, and each draw's root.

    Args:
        curve: evaluated around the root here, up to the largest scale.
        want: see ``root``.
        scale: the root.
        largest: see ``root``.

    Returns:
        ``value``, ``low``, ``high``, ``by_draw``; a bound at the edge of what was evaluated is
        None, since it is not known.
    """
    scales = [around * scale for around in AROUND if around * scale <= largest * (1 + 1e-9)]
    for one in scales:
        curve.at(one)
    resampled = np.stack([curve.resamples.values(curve.sums[one]) for one in scales])
    logs = np.log(scales)
    roots = np.array([_cross(logs, column, want.value) for column in resampled.T])
    found = bounded(scale, np.clip(np.exp(roots), scales[0], scales[-1]))
    if found["low"] <= scales[0] * (1 + 1e-9):
        found["low"] = None
    if found["high"] >= scales[-1] * (1 - 1e-9):
        found["high"] = None
    tokens = curve.resamples.tokens.sum()
    by_draw = np.stack([curve.sums[one].sum(1) / tokens for one in scales])  # [scales, D]
    found["by_draw"] = [
        None if not math.isfinite(one) else math.exp(one)
        for one in (_cross(logs, column, want.value) for column in by_draw.T)
    ]
    return found


def _cross(logs: np.ndarray, values: np.ndarray, want: float) -> float:
    """ln of the scale at which a curve crosses the wanted value; ∓inf beyond its ends."""
    values = np.maximum.accumulate(np.maximum(values, 1e-300))
    if want < values[0]:
        return -math.inf
    if want > values[-1]:
        return math.inf
    # Where it is level, the first scale that has the value.
    keep = np.concatenate([[True], np.diff(values) > 0])
    return float(np.interp(math.log(want), np.log(values[keep]), logs[keep]))
