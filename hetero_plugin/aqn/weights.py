"""How a norm's weight and AQN's offset add up."""

from __future__ import annotations

from torch import Tensor


def shifted_weight(weight: Tensor, offset: Tensor, in_dtype: bool) -> Tensor:
    """The weight that a norm computes with.

    Args:
        weight: [N], the norm's parameter; not changed.
        offset: float32 [N].
        in_dtype: False: weight + offset in float32. True (``precision: param``): the offset is
            rounded to the weight's dtype and the sum once more, which is what QeRL's addition to
            the parameter leaves in it (arXiv 2510.11696); in bfloat16 an offset under half an ulp
            of the weight then vanishes.

    Returns:
        float32 [N].
    """
    if in_dtype:
        return (weight + offset.to(weight.dtype)).float()
    return weight.float() + offset
