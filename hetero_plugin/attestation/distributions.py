"""How far two distributions over the next token are from each other, token by token.

Here, since every engine needs it: Hugging Face where the logits are at hand, vLLM in its worker,
which hands on these few numbers a token instead of a whole vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Rows = dict[str, np.ndarray]
"""Quantity -> float64 [T], one value a token."""
_SLICE = 64  # tokens at a time in float64: 80 MB at a vocabulary of 152,000


def token_rows(clean: Tensor, noisy: Tensor, targets: Tensor) -> Rows:
    """Quantities of each token, in float64, over the full vocabulary, in nats.

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
        x, y = clean[at].double(), noisy[at].double()
        (top, first), (other_top, second) = x.max(-1), y.max(-1)
        p = (x - top[:, None]).exp_()
        whole = p.sum(-1)
        scale = top + whole.log()  # the logarithm of the sum of exponentials
        other = other_top + (y - other_top[:, None]).exp_().sum(-1).log()
        chosen = targets[at, None]
        one, two = x.gather(1, chosen)[:, 0] - scale, y.gather(1, chosen)[:, 0] - other
        # Σ p (x − y) and the difference of both scales: two exponentials an element, not three.
        # Where p is 0 its term is 0; rounding can leave a sum of equal ones a little under 0.
        terms = p.mul_(torch.where(p == 0, 0.0, x - y)).sum(-1) / whole
        parts["kl"].append((terms - scale + other).clamp_min(0.0))
        parts["delta_p"].append(two.exp() - one.exp())
        parts["delta_logp"].append(two - one)
        parts["same_top"].append((first == second).double())
    return {key: torch.cat(values).cpu().numpy() for key, values in parts.items()}
