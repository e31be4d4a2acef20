#!/usr/bin/env python3
"""How often perfect numbers get dieharder's words, and what its p-values say by the exact test.

    python tests/batteries/dieharder_levels.py          # simulates batteries, a minute
    dieharder -d 3 -g 200 -D default -D 65536 < stream > values.txt
    python tests/batteries/dieharder_levels.py values.txt       # exact Kolmogorov-Smirnov of a run

dieharder 3.31.1 compares the i-th smallest of n p-values with i / (n + 1), but takes the
distribution of Kolmogorov's statistic (Marsaglia, Tsang and Wang 2003), which compares with both
(i - 1) / n and i / n.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
from scipy import stats

SIZE, BATCH, BATCHES = 100, 40_000, 100


def statistic(ordered: np.ndarray) -> np.ndarray:
    """dieharder's statistic of each row of sorted p-values: [rows, n] -> [rows]."""
    n = ordered.shape[-1]
    worst: np.ndarray = np.abs(ordered - np.arange(1, n + 1) / (n + 1)).max(-1)
    return worst


def simulate(*below: float) -> np.ndarray:
    """The share of simulated batteries whose statistic is at most each of ``below``."""
    generator, counts = np.random.default_rng(1), np.zeros(len(below))
    for _ in range(BATCHES):
        found = statistic(np.sort(generator.random((BATCH, SIZE)), axis=1))
        counts += [(found <= bound).sum() for bound in below]
    return counts / (BATCH * BATCHES)


def levels() -> None:
    high = (0.995, 0.9999, 1 - 1e-6)
    shares = simulate(*stats.kstwo.isf([*high, 0.005, 1e-6], SIZE))
    print(f"{BATCH * BATCHES:,} batteries of {SIZE} uniform p-values")
    for p, share in zip(high, shares, strict=False):
        print(f"p > {p:<9.7g} nominal {1 - p:.1e}, perfect numbers {share:.2e}")
    for p, share in zip((0.005, 1e-6), shares[len(high) :], strict=True):
        print(f"p < {p:<9.7g} nominal {p:.1e}, perfect numbers {1 - share:.2e}")


def exact(path: Path) -> None:
    values = np.sort([float(v) for v in re.findall(r"^\|([01]\.\d{8})\|", path.read_text(), re.M)])
    if not len(values):
        raise SystemExit(f"{path}: no p-values; call dieharder with -D default -D 65536")
    ours, theirs = stats.kstest(values, "uniform", method="exact"), float(statistic(values))
    print(f"{len(values)} p-values")
    even = 1 - ours.pvalue
    print(f"Kolmogorov-Smirnov, exact: p = {ours.pvalue:.6f}; as even or evener: {even:.2e}")
    print(f"dieharder's: p = {stats.kstwo.sf(theirs, len(values)):.8f}")
    if len(values) == SIZE:
        print(f"its statistic as small or smaller, simulated: {simulate(theirs)[0]:.2e}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        exact(Path(sys.argv[1]))
    else:
        levels()
