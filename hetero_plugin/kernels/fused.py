"""The operator together with the pointwise step beside it, where vLLM has the step anyway.

Two operators, each opaque to the compiler, so that it can't fuse the clean result with the noisy
one and change it. Both are given the clean result of vLLM's own layer, and write over it only where
something is switched on: at scale 0 the engine is vLLM bit for bit, and nothing is even read. The
decision reads tensors, so that nothing recompiles, waits for the host or goes stale in a captured
graph.

`gated_`: act(gate), rounded as in the Hugging Face model, error, times up.
`weighed_`: AQN's offset on a norm's weight, then the error of the norm's output.

Here: the definitions, and what runs where there is no kernel. The CPU kernel is `cpu/fused.h`, the
CUDA kernel `cuda/fused.py`. For inference: they have no gradient.

T: rows, N: features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}

SCHEMAS = (
    "gated_(Tensor(a!) clean, Tensor gate_up, Tensor row_keys, Tensor clock, Tensor scales, "
    "Tensor segments, str error, bool stochastic, str activation) -> ()",
    "weighed_(Tensor(a!) clean, Tensor unit, Tensor weight, Tensor offset, float shift, "
    "bool in_dtype, Tensor row_keys, Tensor clock, Tensor scales, Tensor segments, str error, "
    "bool stochastic) -> ()",
)


def shifted_weight(weight: Tensor, offset: Tensor, in_dtype: bool) -> Tensor:
    """The weight that a norm computes with under AQN.

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


def pick(clean: Tensor, noisy: Callable[[], Tensor], on: Tensor) -> Tensor:
    """``noisy()`` where the one-element bool ``on`` holds, else a copy of ``clean``."""
    if on.device.type == "cpu":
        return noisy() if bool(on) else clean.clone()
    return torch.where(on, noisy(), clean)  # no synchronisation with the host


def live(scales: Tensor, segments: Tensor) -> Tensor:
    """One bool: whether any of the segments has a scale that is not 0."""
    # Slots one by one: they lie in host memory, the scales may not.
    on = torch.zeros((), dtype=torch.bool, device=scales.device)
    for slot in segments[:, 3].tolist():
        on = on | (scales[slot] != 0)
    return on


def gated_(
    clean: Tensor,
    gate_up: Tensor,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    error: str,
    stochastic: bool,
    activation: str,
) -> None:
    """act(gate) with error, times up; where every scale is 0, what ``clean`` holds.

    Args:
        clean: [..., N], what the layer gives without error; written over.
        gate_up: [..., 2N], bfloat16, float16 or float32.
        activation: a key of `ACTIVATIONS`.
        row_keys, clock, scales, segments, error, stochastic: as in
            `hetero_plugin.operator.perturb`.
    """
    half = gate_up.shape[-1] // 2

    def noisy() -> Tensor:
        act = ACTIVATIONS[activation](gate_up[..., :half])
        noisy_act: Tensor = torch.ops.hetero_noise.perturb(
            act, row_keys, clock, scales, segments, error, stochastic
        )
        return noisy_act * gate_up[..., half:]

    clean.copy_(pick(clean, noisy, live(scales, segments)))


def weighed_(
    clean: Tensor,
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
    """unit·(weight + offset + shift), rounded once, with error; at offset 0 ``clean`` with error.

    Args:
        clean: [..., N], contiguous, the norm's own result; written over.
        unit: [..., N], the norm before its weight.
        weight: [N].
        offset: float32 [N], AQN's.
        shift: what the norm itself adds to its weight (Gemma: 1).
        in_dtype: see `shifted_weight`.
        row_keys, clock, scales, error, stochastic: as in
            `hetero_plugin.operator.perturb`.
        segments: the same; [0, 4] where the norm's output has no error. For a norm of each head
            they cover all heads, which together are one row.
    """

    def shifted() -> Tensor:
        whole = shifted_weight(weight, offset, in_dtype)
        return (unit.float() * (whole + shift if shift else whole)).to(clean.dtype)

    clean.copy_(pick(clean, shifted, offset.any()))
    if segments.shape[0]:
        rows = clean.view(-1, int(segments[:, 0].sum()))
        torch.ops.hetero_noise.perturb_(rows, row_keys, clock, scales, segments, error, stochastic)


def nothing(*args: object) -> None:
    """The fake of an operator that writes in place."""
    return None


def register(library: torch.library.Library) -> None:
    """Defines the operators."""
    for schema, function in zip(SCHEMAS, (gated_, weighed_), strict=True):
        name = schema.partition("(")[0]
        library.define(schema)
        library.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"hetero_noise::{name}", nothing, lib=library)
