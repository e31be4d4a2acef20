"""Curves of dose and response, fitted to many resamples at once.

Accuracy falls from its clean value a to a floor f: ``f + (a − f) / (1 + (s/m)^h)`` at the scale s,
by maximum likelihood. KL is a parabola of the logarithms, by least squares: a power of the scale
that may level off.
"""

from __future__ import annotations

import numpy as np

STEEPNESS = (0.5, 12.0)  # of h
FURTHEST = 100.0  # m, in largest levels: from there on the curve is level
_STEPS = 80
_EDGE = 1e-9


def response(theta: np.ndarray, scales: np.ndarray, floor: float) -> np.ndarray:
    """Accuracies [R, K] at scales [K] of curves [R, 3]: logit of a above f, ln m, ln h."""
    top = _above(theta)[:, None] * (1 - floor)
    return np.asarray(floor + top * _left(theta, scales))


def lost_at(theta: np.ndarray, delta: float, floor: float) -> np.ndarray:
    """Scales [R] at which curves have lost ``delta`` of their clean accuracy; inf: nowhere."""
    room = _above(theta) * (1 - floor) - delta
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scales = np.exp(theta[:, 1]) * (delta / room) ** np.exp(-theta[:, 2])
    return np.where(room > 0, scales, np.inf)


def fit(levels: np.ndarray, shares: np.ndarray, n: int, floor: float) -> np.ndarray:
    """Curves by maximum likelihood.

    Args:
        levels: scales [L], one of them 0.
        shares: right answers [R, L] of ``n`` in each resample.
        n: questions.
        floor: accuracy of guessing.

    Returns:
        theta [R, 3], as ``response`` takes it.
    """
    largest = levels.max()
    clean = np.clip(shares[:, levels.argmin()], floor + 0.5 / n, 1 - 0.5 / n)
    above = np.clip((clean - floor) / (1 - floor), 1e-4, 1 - 1e-4)
    best = np.zeros((len(shares), 3))
    least = np.full(len(shares), np.inf)
    for far, steep in ((0.2, 2.0), (0.7, 2.0), (2.0, 3.0), (2.0, 1.0), (20.0, 2.0)):
        start = np.stack(
            [
                np.log(above / (1 - above)),
                np.full(len(shares), np.log(far * largest)),
                np.full(len(shares), np.log(steep)),
            ],
            axis=1,
        )
        theta, deviance = _climb(start, levels, shares, n, floor)
        better = deviance < least
        best[better], least[better] = theta[better], deviance[better]
    return best


def _above(theta: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(theta[:, 0], -30, 30))))


def _left(theta: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The share of what is above the floor that is left, [R, K]."""
    with np.errstate(divide="ignore"):
        logs = np.log(scales)[None]
    power = np.clip(np.exp(theta[:, 2:3]) * (logs - theta[:, 1:2]), -60, 60)
    return np.asarray(np.where(scales[None] > 0, 1 / (1 + np.exp(power)), 1.0))


def _deviance(p: np.ndarray, shares: np.ndarray, n: int) -> np.ndarray:
    p = np.clip(p, _EDGE, 1 - _EDGE)
    return np.asarray(-2 * n * (shares * np.log(p) + (1 - shares) * np.log(1 - p)).sum(1))


def _clamped(theta: np.ndarray, largest: float) -> np.ndarray:
    low = [-12.0, np.log(largest) - 12.0, np.log(STEEPNESS[0])]
    high = [12.0, np.log(FURTHEST * largest), np.log(STEEPNESS[1])]
    return np.asarray(np.clip(theta, low, high))


def _climb(
    theta: np.ndarray, levels: np.ndarray, shares: np.ndarray, n: int, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fisher scoring with Levenberg's damping, each resample with its own."""
    largest = float(levels.max())
    damping = np.full(len(theta), 1e-2)
    theta = _clamped(theta, largest)
    p = response(theta, levels, floor)
    deviance = _deviance(p, shares, n)
    with np.errstate(divide="ignore"):
        logs = np.where(levels > 0, np.log(np.maximum(levels, 1e-300)), 0.0)[None]
    for _ in range(_STEPS):
        above, left = _above(theta)[:, None], _left(theta, levels)
        height = (1 - floor) * above
        fall = np.where(levels > 0, height * left * (1 - left), 0.0)
        steep = np.exp(theta[:, 2:3])
        jacobian = np.stack(
            [
                (1 - floor) * above * (1 - above) * left,
                fall * steep,
                -fall * steep * (logs - theta[:, 1:2]),
            ],
            axis=2,
        )  # [R, L, 3]
        inside = np.clip(p, 1e-6, 1 - 1e-6)
        weight = n / (inside * (1 - inside))
        normal = np.einsum("rli,rl,rlj->rij", jacobian, weight, jacobian)
        slope = np.einsum("rli,rl->ri", jacobian, weight * (shares - p))
        scale = np.einsum("rii->ri", normal) + 1e-9
        damped = normal + np.einsum("ri,ij->rij", damping[:, None] * scale + 1e-9, np.eye(3))
        step = np.linalg.solve(damped, slope[:, :, None])[:, :, 0]
        tried = _clamped(theta + np.clip(step, -2, 2), largest)
        p_tried = response(tried, levels, floor)
        found = _deviance(p_tried, shares, n)
        better = found <= deviance
        theta = np.where(better[:, None], tried, theta)
        p = np.where(better[:, None], p_tried, p)
        done = np.abs(deviance - found) < 1e-9 * (1 + deviance)
        deviance = np.where(better, found, deviance)
        damping = np.clip(np.where(better, damping / 4, damping * 4), 1e-9, 1e9)
        if (done & better).all():
            break
    return theta, deviance


def parabola(levels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Coefficients [R, 3] of ln value over ln level, highest power first.

    Args:
        levels: scales over 0 [L].
        values: over 0 [R, L].
    """
    fitted = np.polyfit(np.log(levels), np.log(np.maximum(values, 1e-300)).T, 2)
    return np.asarray(fitted.T)


def parabola_at(coefficients: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Values [R, K] of parabolas [R, 3] at scales [K]."""
    x = np.log(scales)[None]
    a, b, c = (coefficients[:, i : i + 1] for i in range(3))
    return np.asarray(np.exp(a * x**2 + b * x + c))
