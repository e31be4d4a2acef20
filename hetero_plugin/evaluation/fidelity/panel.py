"""The fidelity panel: per-token quantities of two distributions, and their summary.

All over the full vocabulary, in nats, on a text whose next tokens are known (teacher forcing).
Tokens of one window of text depend on each other, so intervals come from a bootstrap over windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

RATIO = (0.9, 1.1)
LEAST_WINDOWS = 8  # under that a bootstrap over windows says nothing
DRAWS = 500
_SLICE = 64  # tokens at a time in float64: 80 MB at a vocabulary of 152,000
Rows = dict[str, np.ndarray]


def token_rows(clean: Tensor, noisy: Tensor, targets: Tensor) -> Rows:
    """Quantities of each token, in float64.

    Args:
        clean: logits [T, V], any dtype.
        noisy: logits [T, V] of the other model.
        targets: int64 [T], the text's next tokens.

    Returns:
        Arrays [T]: ``kl`` (clean ‖ noisy), ``delta_p`` and ``delta_logp`` of the next token
        (noisy minus clean), ``same_top``.
    """
    parts: dict[str, list[Tensor]] = {"kl": [], "delta_p": [], "delta_logp": [], "same_top": []}
    for start in range(0, len(targets), _SLICE):
        at = slice(start, start + _SLICE)
        p, q = (torch.log_softmax(x[at].double(), dim=-1) for x in (clean, noisy))
        chosen = targets[at, None]
        one, two = p.gather(1, chosen)[:, 0], q.gather(1, chosen)[:, 0]
        # Where p is 0 its term is 0; rounding can leave a sum of equal ones a little under 0.
        terms = torch.where(p.isneginf(), 0.0, p.exp() * (p - q))
        parts["kl"].append(terms.sum(-1).clamp_min(0.0))
        parts["delta_p"].append(two.exp() - one.exp())
        parts["delta_logp"].append(two - one)
        parts["same_top"].append((p.argmax(-1) == q.argmax(-1)).double())
    return {key: torch.cat(values).cpu().numpy() for key, values in parts.items()}


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
