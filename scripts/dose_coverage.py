"""How often the interval of a dose holds the true level: the table of docs/evaluation.md.

Simulated studies of six levels; a question has a difficulty of its own, which all levels share to
a correlation of 0.8. ``python -m scripts.dose_coverage [STUDIES]``: 500 take about five minutes.
"""

from __future__ import annotations

import sys
from statistics import NormalDist

import numpy as np

from hetero_plugin.evaluation.dose.curve import fit, lost_at, response

LEVELS = np.array([0.0, 0.01, 0.02, 0.05, 0.1, 0.2])
CASES = (
    (0.7, 0.15, 2.0, 1319),
    (0.7, 0.15, 2.0, 300),
    (0.27, 0.06, 3.0, 300),
    (0.6, 0.1, 1.0, 1319),
)
DELTA, CORRELATION, RESAMPLES = 0.02, 0.8, 300


def coverage(
    clean: float, middle: float, steep: float, n: int, studies: int
) -> tuple[float, float, float]:
    """The true level, the median of those found, and the share of intervals that hold the true."""
    rng = np.random.default_rng(1)
    theta = np.array([[np.log(clean / (1 - clean)), np.log(middle), np.log(steep)]])
    limits = [NormalDist().inv_cdf(p) for p in response(theta, LEVELS, 0.0)[0]]
    true = float(lost_at(theta, DELTA, 0.0)[0])
    found, inside = [], 0
    for _ in range(studies):
        own = rng.normal(size=(n, 1))
        draw = np.sqrt(CORRELATION) * own
        draw = draw + np.sqrt(1 - CORRELATION) * rng.normal(size=(n, len(LEVELS)))
        right = (draw < limits).astype(float)
        again = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) @ right / n
        found.append(lost_at(fit(LEVELS, right.mean(0)[None], n, 0.0), DELTA, 0.0)[0])
        drawn = lost_at(fit(LEVELS, again, n, 0.0), DELTA, 0.0)
        low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
        inside += bool(low <= true <= high)
    return true, float(np.median(found)), inside / studies


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    for clean, middle, steep, n in CASES:
        true, median, share = coverage(clean, middle, steep, n, number)
        print(
            f"| {clean:g}, {middle:g}, {steep:g}, {n:,} | {100 * true:.2f} % "
            f"| {100 * median:.2f} % | {100 * share:.1f} % |",
            flush=True,
        )
