"""The operators that multiply matrices as another machine would.

``accumulate`` is the sum itself; ``product`` is what a layer calls: the clean result where the
scale is 0. Opaque to the compiler, so that neither is fused into anything.

T: rows (tokens), K: what is summed over, N: output features.
"""

from __future__ import annotations

import functools
import json

import torch
from torch import Tensor

from hetero_plugin.errors import accumulate as sums
from hetero_plugin.errors.formats.grid import E4M3, E5M2

__all__ = ["product", "register"]

_GRIDS = {"e4m3": E4M3, "e5m2": E5M2}
_OPERANDS = {
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.float32: "float32",
}


@functools.lru_cache(maxsize=256)
def _arithmetic(how: str, dtype: torch.dtype) -> tuple[sums.Arithmetic, bool]:
    options = json.loads(how)
    mode = options.pop("mode", "exact")
    operand = options.pop("operands", None) or _OPERANDS[dtype]
    return sums.arithmetic_of(operand, **options), mode == "chunk"


def _scaled(x: Tensor, operand: str) -> tuple[Tensor, Tensor | None]:
    """float32 values of an operand's type, and what each row of them is to be multiplied with."""
    wide = x.float()
    if operand == "tf32":  # cut off, as matrix units read it
        return (wide.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32), None
    if operand not in _GRIDS:
        return wide, None
    grid = _GRIDS[operand]
    scale = wide.abs().amax(dim=-1, keepdim=True) / grid.largest
    inverse = torch.where(scale == 0, 0.0, wide / scale)
    return grid.nearest(inverse), scale


def product(a_TK: Tensor, b_NK: Tensor, how: str) -> Tensor:
    """a·bᵀ added up as ``how`` says.

    Args:
        a_TK, b_NK: bfloat16, float16 or float32, of one dtype.
        how: a rule's options as JSON (`hetero_plugin.config.Accumulate`).

    Returns:
        float32 [T, N], not rounded to the dtype.

    Raises:
        ValueError: the hardware does not multiply such operands.
    """
    arithmetic, blocked = _arithmetic(how, a_TK.dtype)
    a, of_rows = _scaled(a_TK, arithmetic.operand)
    b, of_columns = _scaled(b_NK, arithmetic.operand)
    if blocked:
        y = sums.blocked(a, b, arithmetic.numbers)
    else:
        y = torch.ops.hetero_noise.accumulate(a, b, arithmetic.numbers)
    if of_rows is not None and of_columns is not None:
        y = y * of_rows * of_columns.T
    return y


def _product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    clean: Tensor,
    scales: Tensor,
    segments: Tensor,
    how: list[str],
) -> Tensor:
    columns = clean.shape[-1]
    y_TN = clean.reshape(-1, columns).clone(memory_format=torch.contiguous_format)
    x_TK = x.reshape(-1, x.shape[-1])
    start = 0
    # Segments lie in host memory. A device's scales are not read from here: nothing waits for it or
    # hinders the capture of its work, and the product is computed whatever they are.
    for (width, slot), words in zip(segments.tolist(), how, strict=True):
        part = slice(start, start + width)
        start += width
        if not slot or x_TK.shape[0] == 0:
            continue
        scale = scales[slot]
        host = scale.device.type == "cpu"
        if host and torch.isnan(scale):
            raise RuntimeError(
                "hetero_noise: a rule that applies in one phase only (rollout or train) ran with "
                "no phase set; run the model inside `with phase(model, ...)`"
            )
        if host and scale == 0:
            continue
        value = product(x_TK, weight[part], words)
        if bias is not None:
            value = value + bias[part].float()
        before = y_TN[:, part]
        blend = before.float() + scale * (value - before.float())
        blend = torch.where(scale == 1, value, blend).to(y_TN.dtype)  # NaN where the scale is
        y_TN[:, part] = torch.where(scale == 0, before, blend)
    return y_TN.reshape(clean.shape)


def _like_clean(x, weight, bias, clean, scales, segments, how):  # type: ignore[no-untyped-def]
    return torch.empty_like(clean, memory_format=torch.contiguous_format)


def register(library: torch.library.Library) -> None:
    """Defines the operators."""
    library.define("accumulate(Tensor a, Tensor b, int[] numbers) -> Tensor")
    library.impl("accumulate", sums.accumulate, "CompositeExplicitAutograd")
    library.define(
        "product(Tensor x, Tensor weight, Tensor? bias, Tensor clean, Tensor scales, "
        "Tensor segments, str[] how) -> Tensor"
    )
    library.impl("product", _product, "CompositeExplicitAutograd")
    torch.library.register_fake("hetero_noise::product", _like_clean, lib=library)

    def sizes(a, b, numbers):  # type: ignore[no-untyped-def]
        return a.new_empty(a.shape[0], b.shape[0])

    torch.library.register_fake("hetero_noise::accumulate", sizes, lib=library)
