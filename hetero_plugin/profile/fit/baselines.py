"""What a profile is held against: a Gaussian of the same size, rounded stochastically.

``relative_gaussian`` adds z·s·|y| to y and rounds up or down with the probability that keeps the
mean. In ulps of y that is an error of standard deviation σ = s·m, m = |y| / ulp, and a difference
of exactly k ulps has the probability E[max(0, 1 − |e − k|)], e normal with that σ.
"""

from __future__ import annotations

import numpy as np

__all__ = ["FLOOR", "fitted_scale", "floored", "heavy_tail", "rounded_gaussian", "second_moment"]

FLOOR = 1e-6
"""The share of a heavy-tailed distribution that every model is mixed with before it is scored, so
that one value that it never saw costs it much, and not everything."""
_WIDE = 8.0
"""σ from which the density at k serves in place of the exact probability."""


def _upper(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """E[max(0, e − x)] of a normal e."""
    from scipy.special import ndtr

    t = x / sigma
    density = np.exp(-0.5 * t * t) / np.sqrt(2 * np.pi)
    return np.asarray(sigma * density - x * ndtr(-t))


def rounded_gaussian(ulps: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Probability that a stochastically rounded normal error is so many ulps.

    Args:
        ulps: integers, of any shape.
        sigma: ulps, broadcast against them, ≥ 0; 0 is no error.
    """
    k, s = np.broadcast_arrays(np.asarray(ulps, float), np.asarray(sigma, float))
    found = np.where(k == 0, 1.0, 0.0)
    # Mirrored to the positive side, where no large numbers cancel.
    at = (s > 0) & (s < _WIDE)
    x, sd = np.abs(k[at]), s[at]
    found[at] = _upper(x - 1, sd) - 2 * _upper(x, sd) + _upper(x + 1, sd)
    at = s >= _WIDE
    variance = s[at] ** 2 + 1 / 6
    found[at] = np.exp(-0.5 * k[at] ** 2 / variance) / np.sqrt(2 * np.pi * variance)
    return np.clip(found, 0.0, 1.0)


def second_moment(sigma: np.ndarray) -> np.ndarray:
    """Mean square, ulps², of that error."""
    s = np.asarray(sigma, float)
    k = np.arange(1, 40)
    exact = 2 * (k**2 * rounded_gaussian(k, np.minimum(s, 4.0)[..., None])).sum(-1)
    return np.where(s < 4.0, exact, s**2 + 1 / 6)


def fitted_scale(weights: np.ndarray, mantissas: np.ndarray, wanted: float) -> float:
    """The scale of ``relative_gaussian`` whose error, after rounding, has a given size.

    Args:
        weights: of cells of elements: their number times the square of their ulp.
        mantissas: |y| / ulp of each cell.
        wanted: the sum over all elements of the squared error, in the unit of the weights.

    Returns:
        0 where nothing is wanted.
    """
    if wanted <= 0 or weights.sum() <= 0:
        return 0.0
    low, high = -60.0, 12.0  # log2 of the scale
    for _ in range(50):
        middle = (low + high) / 2
        size = (weights * second_moment(2.0**middle * mantissas)).sum()
        low, high = (middle, high) if size < wanted else (low, middle)
    return float(2.0**high)


def heavy_tail(ulps: np.ndarray) -> np.ndarray:
    """The heavy-tailed probability of each difference; its sum over all integers is 1."""
    k = np.abs(np.asarray(ulps, float))
    return 0.5 / ((k + 1) * (k + 2)) * np.where(k == 0, 2.0, 1.0)


def floored(probability: np.ndarray, ulps: np.ndarray) -> np.ndarray:
    """Log of a model's probability, mixed with the heavy-tailed one; nats."""
    return np.log((1 - FLOOR) * probability + FLOOR * heavy_tail(ulps))
