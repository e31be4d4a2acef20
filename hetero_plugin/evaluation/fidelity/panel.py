"""The fidelity panel: the summary of per-token quantities of two distributions.

All over the full vocabulary, in nats, on a text whose next tokens are known (teacher forcing).
Tokens of one window of text depend on each other, so intervals come from a bootstrap over windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hetero_plugin.attestation.distributions import Rows, token_rows

__all__ = ["MEASURES", "RATIO", "Rows", "summarise", "token_rows"]

RATIO = (0.9, 1.1)
LEAST_WINDOWS = 8  # under that a bootstrap over windows says nothing
DRAWS = 500


_MEASURES: dict[str, Callable[[Rows], float]] = {
    "kl_mean": lambda r: float(r["kl"].mean()),
    "kl_median": lambda r: float(np.median(r["kl"])),
    "kl_99": lambda r: float(np.quantile(r["kl"], 0.99)),
    "kl_99.9": lambda r: float(np.quantile(r["kl"], 0.999)),
    "delta_p_1": lambda r: float(np.quantile(r["delta_p"], 0.01)),
    "delta_p_5": lambda r: float(np.quantile(r["delta_p"], 0.05)),
    "delta_p_median": lambda r: float(np.median(r["delta_p"])),
    "delta_p_95": lambda r: float(np.quantile(r["delta_p"], 0.95)),
    "delta_p_99": lambda r: float(np.quantile(r["delta_p"], 0.99)),
    "same_top": lambda r: float(r["same_top"].mean()),
    "delta_logp_rms": lambda r: float(np.sqrt(np.mean(r["delta_logp"] ** 2))),
    "delta_logp_mean_abs": lambda r: float(np.abs(r["delta_logp"]).mean()),
    "perplexity_ratio": lambda r: float(np.exp(-r["delta_logp"].mean())),
    "ratio_out": lambda r: float(
        np.mean((np.exp(r["delta_logp"]) < RATIO[0]) | (np.exp(r["delta_logp"]) > RATIO[1]))
    ),
}
MEASURES = tuple(_MEASURES)


def summarise(windows: Sequence[Rows], *, seed: int = 0, draws: int = DRAWS) -> dict[str, Any]:
    """The panel of some windows of text.

    Args:
        windows: ``token_rows`` of each.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Returns:
        Measure -> ``value``, ``low``, ``high`` (95 %; None under 8 windows); ``tokens`` and
        ``windows``.

    Raises:
        ValueError: no window, or a value that is no number.
    """
    if not windows:
        raise ValueError("no window of text was measured")
    whole = _joined(windows)
    if not all(np.isfinite(values).all() for values in whole.values()):
        raise ValueError("a distribution holds values that are no finite numbers")
    found: dict[str, Any] = {
        name: {"value": measure(whole), "low": None, "high": None}
        for name, measure in _MEASURES.items()
    }
    if len(windows) >= LEAST_WINDOWS:
        rng = np.random.default_rng(seed)
        values: dict[str, list[float]] = {name: [] for name in _MEASURES}
        for _ in range(draws):
            drawn = _joined([windows[i] for i in rng.integers(0, len(windows), len(windows))])
            for name, measure in _MEASURES.items():
                values[name].append(measure(drawn))
        for name, drawn_values in values.items():
            low, high = np.quantile(drawn_values, [0.025, 0.975])
            found[name].update(low=float(low), high=float(high))
    return {"tokens": len(whole["kl"]), "windows": len(windows), "measures": found}


def _joined(windows: Sequence[Mapping[str, np.ndarray]]) -> Rows:
    return {key: np.concatenate([w[key] for w in windows]) for key in windows[0]}
