"""Implementations behind ``torch.ops.hetero_noise``: reference, C++ for CPUs, Triton for CUDA."""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from typing import Any

import torch
from torch import Tensor

from hetero_plugin.kernels import (
    build,
    checks,
    clip,
    formats,
    fused,
    keys,
    product,
    reference,
    unrounded,
)

log = logging.getLogger("hetero_noise")
_library = torch.library.Library("hetero_noise", "DEF")
_library.define(
    "perturb(Tensor x, Tensor row_keys, Tensor clock, Tensor scales, Tensor segments, str error, "
    "bool stochastic) -> Tensor"
)
# The same operator for error models without a native kernel, on any device.
_library.define(
    "perturb_reference(Tensor x, Tensor row_keys, Tensor clock, Tensor scales, Tensor segments, "
    "str error, bool stochastic) -> Tensor"
)
# In place, for a caller that owns x: without a gradient.
_library.define(
    "perturb_(Tensor(a!) x, Tensor row_keys, Tensor clock, Tensor scales, Tensor segments, "
    "str error, bool stochastic) -> ()"
)
_library.define(
    "stream(Tensor clock, Tensor site, Tensor row, int start, int columns, int kind) -> Tensor"
)
_library.impl("perturb", reference.perturb, "CompositeExplicitAutograd")
_library.impl("perturb_reference", reference.perturb, "CompositeExplicitAutograd")
_library.impl("perturb_", reference.perturb_, "CompositeExplicitAutograd")
_library.impl("stream", reference.stream, "CompositeExplicitAutograd")

fused.register(_library)
unrounded.register(_library)
keys.register(_library)
product.register(_library)
clip.register(_library)
formats.register(_library)


def _same_shape(x: Tensor, *_: object) -> Tensor:
    checks.check_dtype(x.dtype, "a tensor given to hetero_noise::perturb")
    return torch.empty_like(x, memory_format=torch.contiguous_format)


torch.library.register_fake("hetero_noise::perturb_", fused.nothing, lib=_library)


# Per-row addresses have no vmapped dimension; without a rule, torch says something about fallbacks.
for _name in (
    "perturb",
    "perturb_reference",
    "perturb_",
    "gated_",
    "weighed_",
    "perturb_unrounded_",
    "weighed_unrounded_",
    "product",
):
    torch.library.register_vmap(f"hetero_noise::{_name}", checks.no_vmap, lib=_library)


def _straight_through(ctx: object, grad: Tensor) -> tuple[Tensor | None, ...]:
    return grad, None, None, None, None, None, None


for _name in ("perturb", "perturb_reference"):
    torch.library.register_fake(f"hetero_noise::{_name}", _same_shape, lib=_library)
    # The error is a constant to autograd, and nothing is kept for the backward pass.
    torch.library.register_autograd(f"hetero_noise::{_name}", _straight_through, lib=_library)


def _perturb_cuda(*args: Any, **how: Any) -> Tensor:
    x, row_keys, clock, scales, segments, error, _ = args
    if (known := formats.numbers(error)) is not None:
        from hetero_plugin.kernels.cuda import formats as cuda_formats

        return cuda_formats.perturb(x, row_keys, clock, scales, segments, known, **how)
    if error.startswith("profile|"):
        from hetero_plugin.kernels.cuda import profile as cuda_profile

        return cuda_profile.perturb(x, row_keys, clock, scales, segments, error, **how)
    from hetero_plugin.kernels.cuda import perturb as cuda

    return cuda.perturb(*args, **how)


def _perturb_cuda_(*args: Any) -> None:
    _perturb_cuda(*args, in_place=True)


def _gated_cuda_(*args: Any) -> None:
    from hetero_plugin.kernels.cuda import fused as cuda_fused

    cuda_fused.gated_(*args)


def _weighed_cuda_(*args: Any) -> None:
    from hetero_plugin.kernels.cuda import fused as cuda_fused

    cuda_fused.weighed_(*args)


def _perturb_unrounded_cuda_(x: Tensor, dtype: torch.dtype, *given: Any) -> None:
    *args, native = given
    if not native:
        unrounded.perturb_unrounded_(x, dtype, *given)
        return
    _perturb_cuda(x, *args, in_place=True, rounds_to=dtype)


def _weighed_unrounded_cuda_(clean: Tensor, dtype: torch.dtype, *args: Any) -> None:
    from hetero_plugin.kernels.cuda import fused as cuda_fused

    cuda_fused.weighed_(clean, *args, dtype)  # type: ignore[call-arg]


def _row_keys_cuda_(*args: Any) -> None:
    from hetero_plugin.kernels.cuda import keys as cuda_keys

    cuda_keys.row_keys_(*args)


def _load_cuda() -> str:
    if os.environ.get("HETERO_NOISE_KERNEL", "native") == "reference":
        return "reference"
    if torch.version.cuda is None or importlib.util.find_spec("triton") is None:
        return "reference"
    _library.impl("perturb", _perturb_cuda, "CUDA")
    _library.impl("perturb_", _perturb_cuda_, "CUDA")
    _library.impl("gated_", _gated_cuda_, "CUDA")
    _library.impl("weighed_", _weighed_cuda_, "CUDA")
    _library.impl("perturb_unrounded_", _perturb_unrounded_cuda_, "CUDA")
    _library.impl("weighed_unrounded_", _weighed_unrounded_cuda_, "CUDA")
    _library.impl("row_keys_", _row_keys_cuda_, "CUDA")
    return "triton"


def _load() -> tuple[str, str]:
    if os.environ.get("HETERO_NOISE_KERNEL", "native") == "reference":
        return "reference", "HETERO_NOISE_KERNEL says so"
    try:
        library = build.build()
        try:
            torch.ops.load_library(str(library))
        except OSError as error:
            raise OSError(f"{error}; remove it, and it is built anew") from None
    except (RuntimeError, OSError) as error:  # NoCompiler, BuildFailed and UnsafeCache among them
        slow = "" if isinstance(error, build.NoCompiler) else (
            "; hetero_noise computes with its reference kernel, which is right but some hundred "
            "times slower"
        )  # fmt: skip
        warnings.warn(f"{error}{slow}", RuntimeWarning, stacklevel=2)
        return "reference", str(error)
    return "cpp-" + torch.backends.cpu.get_cpu_capability().lower(), ""


KERNEL, WHY_REFERENCE = _load()
"""Which CPU implementation runs in this process: ``cpp-avx512``, …, or ``reference``; and why that
one, empty otherwise."""
formats.declare_all()
KERNEL_CUDA = _load_cuda()
"""Which implementation runs on a CUDA device: ``triton`` or ``reference``."""


def kernel_of(device: torch.device) -> str:
    """The implementation that runs on a device."""
    return {"cpu": KERNEL, "cuda": KERNEL_CUDA}.get(device.type, "reference")
