"""One scale for the weights of several layers: those that a serving engine fuses into one.

Hugging Face models have q, k and v as three layers and serving engines as one; llm-compressor gives
all three the scale of the largest of them. Here each layer's weight stays its own, and is rounded
as if the others were below it: the bits are those of the fused weight in both engines.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.operator.chain import Chain
from hetero_plugin.state import Draw

__all__ = ["row_of_largest", "with_shared_scale"]


def with_shared_scale(
    chain: Chain, weight: Tensor, others: Sequence[Tensor], draw: Draw, site: str
) -> Tensor:
    """A weight with the error of a chain whose scale is of several weights together.

    Args:
        chain: of the weight, with `Chain.shares`.
        weight: [N, K].
        others: the weights that share its scale, each [M, K].
        draw: has the scales. Its keys are not read: number formats draw nothing.
        site: name of the weight's site, for errors.

    Returns:
        [N, K], contiguous; its gradient is passed straight through, or clipped at that scale.

    Raises:
        ConfigError: as `row_of_largest`.
    """
    row = row_of_largest(weight, others, site)
    # A row more, which holds the largest of the others, and goes again.
    keys = torch.zeros(weight.shape[0] + 1, dtype=torch.int64, device=weight.device)
    return chain(torch.cat([weight, row]), draw.of(keys))[:-1]


def row_of_largest(weight: Tensor, others: Sequence[Tensor], site: str) -> Tensor:
    """[1, K] with the largest magnitude of the others in its first column, and zeros.

    Args:
        weight, others, site: as for `with_shared_scale`.

    Raises:
        ConfigError: one of the others is not there as a whole, as where each is gathered alone.
    """
    for other in others:
        if other.ndim != 2 or other.shape[-1] != weight.shape[-1]:
            raise ConfigError(
                f"share: fused needs the weights that {site} shares its scale with as they are, "
                f"[M, {weight.shape[-1]}], and one is {list(other.shape)} while {site} runs: "
                "sharded, or not gathered yet. Let a whole decoder layer be gathered at once, or "
                "leave share out"
            )
    with torch.no_grad():
        peak = torch.stack([other.detach().abs().amax().to(weight.dtype) for other in others])
        return F.pad(peak.amax().reshape(1, 1), (0, weight.shape[-1] - 1))
