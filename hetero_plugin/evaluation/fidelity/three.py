"""Machine A, machine B, and A with the profile of their difference: three sets of distributions.

A profile is right end to end if A with it is as far from A as B is: the same KL, the same gap in
the log-probability of the next token, as many flips of the top token. Its errors are others than
B's, so it is as far from B as two machines are that both differ from A in that way; that is shown
too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hetero_plugin.evaluation.fidelity.panel import LEAST_WINDOWS, Rows
from hetero_plugin.evaluation.fidelity.resample import Resamples, bounded

__all__ = ["MEASURES", "PAIRS", "side_by_side"]

PAIRS = ("a_b", "a_profile", "profile_b")
"""A against B, A against A with the profile, A with the profile against B."""
MEASURES = ("kl", "gap", "flips")
"""Means over tokens: KL, nats; |Δ log-prob| of the next token, nats; share of other top tokens."""


def side_by_side(windows: Sequence[dict[str, Rows]]) -> dict[str, Any]:
    """The three pairs with their intervals, and whether the profile's is that of the machines.

    Args:
        windows: of each window of text, `PAIRS` -> `token_rows` of the pair.

    Returns:
        ``pairs``: pair -> measure -> ``value``, ``low``, ``high`` (95 %, bootstrap over windows);
        ``ratio``: measure -> A against A with the profile over A against B, paired, or None where
        A and B do not differ; ``within``: measure -> whether the profile's value lies in the
        interval of A against B; ``tokens``, ``windows``.

    Raises:
        ValueError: fewer than 8 windows.
    """
    if len(windows) < LEAST_WINDOWS:
        raise ValueError(f"{len(windows)} windows; intervals need {LEAST_WINDOWS}")
    sums = {pair: [_sums(window[pair]) for window in windows] for pair in PAIRS}
    tokens = np.array([len(window["a_b"]["kl"]) for window in windows], float)
    resamples = Resamples(tokens)
    by = {
        pair: {name: np.array([[one[name] for one in sums[pair]]]) for name in MEASURES}
        for pair in PAIRS
    }
    pairs = {
        pair: {name: resamples.interval(by[pair][name]) for name in MEASURES} for pair in PAIRS
    }
    ratio: dict[str, Any] = {}
    for name in MEASURES:
        one, two = by["a_profile"][name], by["a_b"][name]
        if resamples.value(two) == 0:
            ratio[name] = None
            continue
        bottom = resamples.values(two)
        kept = bottom > 0
        ratio[name] = bounded(
            resamples.value(one) / resamples.value(two),
            resamples.values(one)[kept] / bottom[kept],
        )
    return {
        "pairs": pairs,
        "ratio": ratio,
        "within": {
            name: bool(
                pairs["a_b"][name]["low"]
                <= pairs["a_profile"][name]["value"]
                <= pairs["a_b"][name]["high"]
            )
            for name in MEASURES
        },
        "tokens": int(tokens.sum()),
        "windows": len(windows),
    }


def _sums(rows: Rows) -> dict[str, float]:
    return {
        "kl": float(rows["kl"].sum()),
        "gap": float(np.abs(rows["delta_logp"]).sum()),
        "flips": float((1 - rows["same_top"]).sum()),
    }
