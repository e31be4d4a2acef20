"""mmasim's matrix units under our names; importable only where mmasim is."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Unit = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A [M, K], B [K, N], C float32 [M, N] -> float32 [M, N]."""


def units() -> dict[tuple[str, str], Unit]:
    """(hardware, operand) -> mmasim's arithmetic, for any shape."""
    from mmasim.amd import MFMA
    from mmasim.nv_ptx import MMA, WGMMA, TCGen05MMA

    found: dict[tuple[str, str], Unit] = {}
    short = {"bfloat16": "bf16", "float16": "f16", "tf32": "tf32", "e4m3": "e4m3", "e5m2": "e5m2"}
    found["volta", "float16"] = MMA("Volta", "m8n8k4.f32.f16.f16.f32").arithmetic_op
    found["turing", "float16"] = MMA("Turing", "m16n8k8.f32.f16.f16.f32").arithmetic_op
    k = {"bfloat16": 16, "float16": 16, "tf32": 8, "e4m3": 32, "e5m2": 32}
    for hardware, name in (("ampere", "Ampere"), ("ada", "Ada Lovelace")):
        for operand, t in short.items():
            if hardware == "ada" or k[operand] < 32:
                shape = f"m16n8k{k[operand]}.f32.{t}.{t}.f32"
                found[hardware, operand] = MMA(name, shape).arithmetic_op
    for operand, t in short.items():
        shape = f"m64n64k{k[operand]}.f32.{t}.{t}"
        found["hopper", operand] = WGMMA("Hopper", shape).arithmetic_op
        kind = {"tf32": "tf32", "e4m3": "f8f6f4", "e5m2": "f8f6f4"}.get(operand, "f16")
        shape = f"m64n64k{k[operand]}.kind::{kind}.f32.{t}.{t}"
        found["blackwell", operand] = TCGen05MMA("Blackwell", shape).arithmetic_op
    found["cdna2", "bfloat16"] = MFMA("CDNA2", "f32_16x16x16bf16_1k").arithmetic_op
    found["cdna2", "float16"] = MFMA("CDNA2", "f32_16x16x16f16").arithmetic_op
    found["cdna3", "bfloat16"] = MFMA("CDNA3", "f32_16x16x16_bf16").arithmetic_op
    found["cdna3", "float16"] = MFMA("CDNA3", "f32_16x16x16_f16").arithmetic_op
    found["cdna3", "tf32"] = MFMA("CDNA3", "f32_16x16x8_xf32").arithmetic_op
    return found
