"""Formats with a scale for each small block: OCP's MX, NVFP4 and HiF4.

x is float32 [..., N]; blocks lie along the last dimension. The result is the value that the format
holds, in float32, without a rounding after it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hetero_plugin.errors.formats.blocks import largest, of_blocks
from hetero_plugin.errors.formats.elements import Elements, unit_step
from hetero_plugin.errors.formats.grid import E2M1, E4M3, Grid, exponent, power_of_two

__all__ = ["MODES", "MXReference", "Mode", "Reference", "hif4", "mx", "nvfp4", "nvfp4_rows"]

Mode = Literal["floor", "ceil", "even", "rceil"]
MODES: tuple[Mode, ...] = ("floor", "ceil", "even", "rceil")
MXReference = Literal["ocp", "compressed-tensors", "modelopt"]
Reference = Literal["vllm", "compressed-tensors", "torchao", "modelopt"]
_MX_BLOCK = 32
_NVFP4_BLOCK = 16
_HIF4_BLOCK = 64


def mx(
    x: Tensor,
    grid: Grid,
    mode: Mode = "floor",
    reference: MXReference = "ocp",
    elements: Elements | None = None,
) -> Tensor:
    """OCP Microscaling v1.0: blocks of 32 with a scale of a power of two (E8M0).

    Args:
        x: float32 [..., N].
        grid: of the elements, which saturate.
        mode: how the scale comes from the block's largest number. ``floor``: the specification's;
            ``ceil``: the next power of two; ``even``: that of the largest number rounded to the
            grid's mantissa; ``rceil``: the smallest under which the largest number does not
            saturate (NVIDIA's conversion instruction).
        reference: with ``compressed-tensors``, ``even`` rounds to one bit of mantissa, E2M1's, for
            every grid; with ``modelopt`` elements beside two numbers alike go toward zero.
        elements: in place of rounding to the nearest number.

    Returns:
        float32; a block with a NaN or an infinity is NaN.
    """

    kept = E2M1.mantissa if reference == "compressed-tensors" else grid.mantissa
    down = reference == "modelopt" and elements is None

    def blocks(b: Tensor) -> Tensor:
        amax = largest(b)
        scale = (_scale_exponent(amax, grid, mode, kept) - grid.top).clamp(-127, 127)
        v = b * power_of_two(-scale)
        q = grid.nearest_down(v) if down else grid.of(v, elements)
        y = q * power_of_two(scale)
        return torch.where(amax.isfinite(), y, torch.nan)

    return of_blocks(x, _MX_BLOCK, blocks)


def _scale_exponent(amax: Tensor, grid: Grid, mode: Mode, mantissa: int) -> Tensor:
    """The exponent of the power of two that stands for a block's largest number, int32.

    Args:
        mantissa: bits that ``even`` rounds to.
    """
    bits = amax.view(torch.int32)
    if mode == "floor":
        return exponent(amax)
    if mode == "ceil":
        return exponent(amax) + ((bits & 0x7FFFFF) != 0).to(torch.int32)
    if mode == "even":
        return exponent((bits + (1 << (22 - mantissa))).view(torch.float32))
    # rceil: 2**e >= amax / largest, both exact but for the division, as the instruction has it.
    ratio = (amax / grid.largest).view(torch.int32)
    # A number below 2**-126 has no exponent of its own: its first bit says whether -127 is enough.
    fraction = (ratio & 0x7FFFFF) > torch.where(ratio < 0x800000, 0x400000, 0)
    return exponent(ratio.view(torch.float32)) + fraction.to(torch.int32) + grid.top


def nvfp4(
    x: Tensor,
    tensor_scale: float | Tensor | None = None,
    reference: Reference = "vllm",
    elements: Elements | None = None,
) -> Tensor:
    """NVFP4: E2M1 in blocks of 16 with a scale in E4M3, and one float32 scale for the tensor.

    Args:
        x: float32 [..., N].
        tensor_scale: g, by which the tensor is multiplied before its blocks are scaled; None:
            2688 / max|x|, so that the largest block's scale is the largest E4M3.
        reference: whose order of operations. ``vllm``: a block whose scale underflows is 0, and
            elements are multiplied by a reciprocal; ``compressed-tensors``: such a scale is 1/8
            (in units of 1/g), and elements are divided. ``torchao`` and ``modelopt`` work with
            1/g, as max|x| / 2688: the smallest scale is E4M3's smallest normal number, 2^-6, of
            torchao, which multiplies by a reciprocal, and its smallest, 2^-9, of modelopt, which
            divides.
        elements: in place of rounding to the nearest number.
    """
    largest_of_all = E4M3.largest * E2M1.largest
    if tensor_scale is None:
        amax = x.abs().amax()
        g = _tensor_scale(amax)
        inverse = amax / largest_of_all
    else:
        g = torch.as_tensor(tensor_scale, dtype=torch.float32, device=x.device)
        inverse = 1.0 / g
    if reference in ("torchao", "modelopt"):
        return _nvfp4_by_inverse(x, inverse, reference, elements)

    def blocks(b: Tensor) -> Tensor:
        if reference == "vllm":
            scale = E4M3.nearest(g * (largest(b) * (1.0 / E2M1.largest)))
            factor = torch.where(scale == 0, 0.0, 1.0 / (scale * (1.0 / g)))
            return E2M1.of(b * factor, elements) * (scale / g)
        scale = E4M3.nearest(g * (largest(b) / E2M1.largest))
        scale = torch.where(scale == 0, 0.125, scale) / g
        return E2M1.of(b / scale, elements) * scale

    return of_blocks(x, _NVFP4_BLOCK, blocks)


def nvfp4_rows(
    x: Tensor, reference: Reference = "vllm", elements: Elements | None = None
) -> Tensor:
    """NVFP4 with a scale of each row in place of the tensor's: `nvfp4` of each row by itself."""
    amax = x.abs().amax(dim=-1, keepdim=True)[..., None]  # against [..., blocks, 16]
    if reference in ("torchao", "modelopt"):
        return _nvfp4_by_inverse(x, amax / (E4M3.largest * E2M1.largest), reference, elements)
    return nvfp4(x, _tensor_scale(amax), reference, elements)


def _tensor_scale(amax: Tensor) -> Tensor:
    """2688 / amax; 1 for a tensor of zeros, NaN or infinities."""
    g = E4M3.largest * E2M1.largest / amax.clamp(min=torch.finfo(torch.float32).tiny)
    return torch.nan_to_num(g, nan=1.0, posinf=1.0)


def _nvfp4_by_inverse(
    x: Tensor, inverse: Tensor, reference: Reference, elements: Elements | None
) -> Tensor:
    """NVFP4 in the order of those who keep 1/g, ``inverse``."""
    smallest = 2.0**-6 if reference == "torchao" else 2.0**-9

    def blocks(b: Tensor) -> Tensor:
        amax = largest(b)
        if reference == "torchao":
            scale = E4M3.nearest((amax / E2M1.largest / inverse).clamp(smallest, E4M3.largest))
            y = E2M1.of(b * (1.0 / inverse / scale), elements) * (inverse * scale)
        else:
            scale = amax / (E2M1.largest * inverse)
            scale = E4M3.nearest(torch.where(scale == 0, 1.0, scale).clamp(min=smallest))
            y = E2M1.of(b / (scale * inverse), elements) * (scale * inverse)
        return torch.where(amax == 0, torch.zeros_like(b), y)

    return of_blocks(x, _NVFP4_BLOCK, blocks)


def hif4(x: Tensor, elements: Elements | None = None) -> Tensor:
    """HiF4 (arXiv 2602.11287): blocks of 64 with three levels of scale, 4.5 bits a value.

    A scale of 6 bits of exponent and 2 of mantissa for 64 numbers; one bit more for each 8 of them
    and one for each 4; numbers of a sign and quarters up to 1.75, ties away from zero.

    Args:
        x: float32 [..., N].
        elements: in place of rounding to the nearest number.
    """

    def blocks(b: Tensor) -> Tensor:
        of_4 = b.abs().unflatten(-1, (16, 4)).amax(dim=-1)
        of_8 = of_4.unflatten(-1, (8, 2)).amax(dim=-1)
        whole = of_8.amax(dim=-1, keepdim=True)
        seventh = torch.tensor(1.0 / 7.0, device=b.device).bfloat16().float()
        factor = (whole * seventh).bfloat16().float().clamp(2.0**-48, 49152.0)
        scale = _e6m2(factor)
        inverse = (1.0 / scale).bfloat16().float()
        up_8 = (of_8 * inverse >= 4.0).float()
        up_4 = (of_4 * inverse * torch.exp2(-up_8).repeat_interleave(2, -1) >= 2.0).float()
        shift = torch.exp2(up_8.repeat_interleave(8, -1) + up_4.repeat_interleave(4, -1))
        v = b.abs() * inverse / shift * 4.0
        if elements is None:
            quarters = torch.floor(v + 0.5).clamp(max=7.0)
        else:
            quarters = elements(v, 0.0, 7.0, unit_step)
        y = torch.copysign(scale * shift * quarters * 0.25, b)
        return torch.where(whole.isfinite(), y, torch.nan)

    return of_blocks(x, _HIF4_BLOCK, blocks)


def _e6m2(x: Tensor) -> Tensor:
    """x with its mantissa rounded to 2 bits, ties to even; x within [2^-48, 49152]."""
    step = power_of_two(exponent(x) - 2)
    return torch.round(x / step) * step
