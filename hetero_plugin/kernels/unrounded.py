"""The operators on values that are still float32 and that their layer is about to round.

A compiler that fuses two layers of a bfloat16 model skips the rounding between them. An opaque
operator between the two would bring that rounding back, and an engine at scale 0 would not be the
clean one. So the operator is put before the rounding, on float32 values that the compiler has not
rounded: at scale 0 (and offset 0) it leaves them as they are, and the compiler does with the
rounding after it what it would have done without. With error it rounds them first and then is the
operator on the rounded tensor, bit for bit: the same error as in a model that runs eagerly.

T: rows, N: features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hetero_plugin.kernels.fused import live, nothing

SCHEMAS = (
    "perturb_unrounded_(Tensor(a!) x, ScalarType dtype, Tensor row_keys, Tensor clock, "
    "Tensor scales, Tensor segments, str error, bool stochastic, bool native) -> ()",
    "weighed_unrounded_(Tensor(a!) clean, ScalarType dtype, Tensor unit, Tensor weight, "
    "Tensor offset, float shift, bool in_dtype, Tensor row_keys, Tensor clock, Tensor scales, "
    "Tensor segments, str error, bool stochastic) -> ()",
)


def _rounded(x: Tensor, dtype: torch.dtype, on: Tensor, then: Callable[[Tensor], Tensor]) -> None:
    """x = then(x in dtype) where the one-element bool ``on`` holds."""
    if on.device.type != "cpu":
        x.copy_(torch.where(on, then(x.to(dtype)).float(), x))  # the host does not wait
    elif bool(on):
        x.copy_(then(x.to(dtype)))


def perturb_unrounded_(
    x: Tensor,
    dtype: torch.dtype,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    error: str,
    stochastic: bool,
    native: bool,
) -> None:
    """`hetero_plugin.operator.perturb` of x rounded to ``dtype``; where every scale is 0, x itself.

    Args:
        x: float32 [..., N], written over; with error its values are exact in ``dtype``.
        dtype: bfloat16 or float16, what the layer rounds to.
        row_keys, clock, scales, segments, error, stochastic: as in `perturb`.
        native: whether a kernel knows the error model.
    """
    keys = row_keys, clock, scales, segments, error, stochastic

    def then(rounded: Tensor) -> Tensor:
        if not native:
            noisy: Tensor = torch.ops.hetero_noise.perturb_reference(rounded, *keys)
            return noisy
        torch.ops.hetero_noise.perturb_(rounded, *keys)
        return rounded

    _rounded(x, dtype, live(scales, segments), then)


def weighed_unrounded_(
    clean: Tensor,
    dtype: torch.dtype,
    unit: Tensor,
    weight: Tensor,
    offset: Tensor,
    shift: float,
    in_dtype: bool,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    error: str,
    stochastic: bool,
) -> None:
    """`hetero_plugin.kernels.fused.weighed_` of ``clean`` rounded to ``dtype``; at offset and scale
    0 ``clean`` itself, float32 [..., N], contiguous, written over."""

    def then(rounded: Tensor) -> Tensor:
        keys = row_keys, clock, scales, segments, error, stochastic
        weights = unit, weight, offset, shift, in_dtype
        torch.ops.hetero_noise.weighed_(rounded, *weights, *keys)
        return rounded

    _rounded(clean, dtype, offset.any() | live(scales, segments), then)


def register(library: torch.library.Library) -> None:
    """Defines the operators."""
    for schema, function in zip(SCHEMAS, (perturb_unrounded_, weighed_unrounded_), strict=True):
        name = schema.partition("(")[0]
        library.define(schema)
        library.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"hetero_noise::{name}", nothing, lib=library)
