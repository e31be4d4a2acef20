"""Intervals of means over tokens by a bootstrap over windows of text and draws of the noise.

Tokens of a window depend on each other, and all tokens of a draw share its random numbers: windows
and draws are each resampled whole, crossed. One set of resamples serves all settings that are
compared, so that their differences and ratios are paired.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hetero_plugin.evaluation.fidelity.panel import LEAST_WINDOWS

RESAMPLES = 2000


class Resamples:
    """Fixed resamples of windows and draws.

    Args:
        tokens: float64 [W], of each window.
        draws: of the noise; a single one can't be resampled, and intervals then are for that draw.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than 8 windows.
    """

    def __init__(self, tokens: np.ndarray, draws: int = 1, seed: int = 0) -> None:
        count = len(tokens)
        if count < LEAST_WINDOWS:
            raise ValueError(f"{count} windows; an interval needs {LEAST_WINDOWS}")
        rng = np.random.default_rng(seed)
        self.tokens = tokens
        self._windows = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        self._draws = rng.multinomial(draws, np.full(draws, 1 / draws), size=RESAMPLES) / draws

    def value(self, sums: np.ndarray) -> float:
        """The mean over tokens of sums [D, W]."""
        return float(sums.mean(0).sum() / self.tokens.sum())

    def values(self, sums: np.ndarray) -> np.ndarray:
        """The mean over tokens in each resample, float64 [RESAMPLES]."""
        top = ((self._draws @ sums) * self._windows).sum(1)
        return np.asarray(top / (self._windows @ self.tokens))

    def interval(self, sums: np.ndarray) -> dict[str, Any]:
        """``value`` with its 95 % interval ``low`` to ``high``."""
        return bounded(self.value(sums), self.values(sums))


def bounded(value: float, resampled: np.ndarray) -> dict[str, Any]:
    """A value with the 2.5 % and 97.5 % quantiles of its resamples."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high)}
