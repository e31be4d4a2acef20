"""How large the error in the actor really is, measured on the tokens it trains on.

Once a step, at each site's first call, forward and backward apart: root mean square of the error
over that of the clean value, after rounding, and the share of elements that changed. An error
below the dtype's resolution shows here, and not in the scale that was asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch


class RealisedError:
    """A recorder for ``perturb.record``; ``kinds`` maps site names to their kinds."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._kinds = kinds
        self._seen: set[tuple[tuple[str, ...], str]] = set()
        self._sums: dict[str, Any] = defaultdict(float)

    def __call__(
        self, names: tuple[str, ...], stream: str, before: torch.Tensor, after: torch.Tensor
    ) -> None:
        if (names, stream) in self._seen:
            return
        self._seen.add((names, stream))
        kind = next((self._kinds[name] for name in names if name in self._kinds), "other")
        if stream not in ("input", "output", "weight"):
            kind = f"{kind}.{stream}"  # gradients are of another size: not to be summed with values
        x, y = before.detach().float(), after.detach().float()
        sums = torch.stack(
            [
                (y - x).square().sum(),
                x.square().sum(),
                (y != x).sum().float(),
                torch.tensor(float(x.numel()), device=x.device),
            ]
        )
        self._sums[kind] = self._sums[kind] + sums

    def metrics(self) -> dict[str, list[float]]:
        """By kind: RMS of error over RMS of value, and the share of changed elements."""
        found: dict[str, list[float]] = {}
        for kind, sums in self._sums.items():
            error, value, changed, count = sums.tolist()
            if value > 0:
                found[f"hetero/realised_error/{kind}"] = [(error / value) ** 0.5]
            found[f"hetero/realised_changed/{kind}"] = [changed / count]
        return found
