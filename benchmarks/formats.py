"""Number formats on activations: nanoseconds an element on one core, beside what others do.

    python benchmarks/formats.py [--rows 512] [--columns 4864] [--json FILE] [--plot FILE.svg]

Time is the thread's own, so that what else runs on the machine counts little; ways take turns, and
small tensors several calls a turn. The floor is the largest of three: a copy, in this run; the
vector operations of the kernel, counted in its source, at four a cycle, the most that a core with
AVX-512 starts; a division's five cycles, on a unit of its own. compressed-tensors and torchao
quantise and dequantise as they do themselves, dynamic scales included; torchao is measured where it
can be imported: put it into a folder of its own on PYTHONPATH, since transformers and PEFT import
it wherever it is.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from hetero_plugin.kernels.formats import declare

sys.path.insert(0, str(Path(__file__).parent))
from common import machine, plot, save, table

# Vector operations of sixteen elements, counted in formats.h: to find the largest number, and for
# the elements; what is done once a block is not counted. Then cycles of a division.
_OPERATIONS = {"blocks": (5 + 20, 0), "rows": (4 + 20, 5), "hif4": (12 + 34, 0)}
FORMATS = {
    "mxfp4": "blocks",
    "mxfp6_e2m3": "blocks",
    "mxfp8_e4m3": "blocks",
    "fp8_e4m3": "rows",
    "int8": "rows",
    "int4": "rows",
    "nvfp4|300.0|vllm": "blocks",
    "nvfp4|row|vllm": "blocks",
    "hif4": "hif4",
}
Way = Callable[[], object]


def ours(x: Tensor, error: str, scale: float = 1.0) -> Way:
    """The operator, out of place."""
    declare(error)
    keys, clock = torch.arange(x.shape[0]), torch.zeros(1, dtype=torch.int64)
    how = keys, clock, torch.tensor([scale]), torch.tensor([[x.shape[1], 5, 0, 0]]), error, True
    return lambda: torch.ops.hetero_noise.perturb(x, *how)


def compressed(x: Tensor) -> dict[str, Way]:
    """compressed-tensors' fake quantisation of activations."""
    if importlib.util.find_spec("compressed_tensors") is None:
        return {}
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import (
        compute_dynamic_scales_and_zp,
        generate_gparam,
    )

    layer = torch.nn.Linear(1, 1)
    presets = {
        "mxfp4": "MXFP4",
        "mxfp8_e4m3": "MXFP8",
        "fp8_e4m3": "FP8_DYNAMIC",
        "int8": "W8A8",
        "nvfp4|300.0|vllm": "NVFP4",
    }

    def way(preset: str) -> Way:
        args: Any = preset_name_to_scheme(preset, ["Linear"]).input_activations
        g = generate_gparam(x.min(), x.max()) if preset == "NVFP4" else None

        def run() -> Tensor:
            scale, zero = compute_dynamic_scales_and_zp(x, args, layer, g)
            result: Tensor = fake_quantize(x, scale, zero, args, global_scale=g)
            return result

        return run

    return {name: way(preset) for name, preset in presets.items()}


def torchao(x: Tensor) -> dict[str, Way]:
    """torchao's tensors of the formats, made and dequantised; the scale is floor for MX."""
    if importlib.util.find_spec("torchao") is None:
        return {}
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
    from torchao.quantization.granularity import PerRow
    from torchao.quantization.qat import (
        Float8FakeQuantizeConfig,
        IntxFakeQuantizeConfig,
    )
    from torchao.quantization.qat.fake_quantizer import FakeQuantizerBase

    floor = ScaleCalculationMode.FLOOR
    of_int8 = FakeQuantizerBase.from_config(
        IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    )
    of_fp8 = FakeQuantizerBase.from_config(
        Float8FakeQuantizeConfig(torch.float8_e4m3fn, PerRow(), None, None)
    )
    g = x.abs().max().float() / 2688.0
    return {
        "mxfp4": lambda: MXTensor.to_mx(x, torch.float4_e2m1fn_x2, 32, floor).dequantize(x.dtype),
        "mxfp8_e4m3": lambda: MXTensor.to_mx(x, torch.float8_e4m3fn, 32, floor).dequantize(x.dtype),
        "nvfp4|300.0|vllm": lambda: NVFP4Tensor.to_nvfp4(x, per_tensor_scale=g).dequantize(x.dtype),
        "int8": lambda: of_int8(x),
        "fp8_e4m3": lambda: of_fp8(x),
    }


def measured(ways: dict[str, Way], runs: int, calls: int) -> dict[str, list[float]]:
    """Seconds a call of this thread, in turns; the first turn and a turn's first call not."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(runs + 1):
        for name, way in ways.items():
            way()  # brings the tensor back into the cache, if it fits
            began = time.thread_time()
            for _ in range(calls):
                way()
            if turn:
                times[name].append((time.thread_time() - began) / calls)
    return times


def main(
    rows: Annotated[int, typer.Option(help="Tokens.")] = 512,
    columns: Annotated[int, typer.Option(help="Features.")] = 4864,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    runs: Annotated[int, typer.Option(min=3, help="Turns.")] = 9,
    ghz: Annotated[float, typer.Option(help="The core's clock, of the floor.")] = 3.7,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw ns an element.")] = None,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(rows, columns).to(getattr(torch, dtype))
    out = torch.empty_like(x)
    peers = {"compressed-tensors": compressed(x), "torchao": torchao(x)}
    with torch.no_grad():
        ways: dict[str, Way] = {"copy": lambda: out.copy_(x)}
        ways |= {f"ours, {name}": ours(x, name) for name in FORMATS}
        ways |= {f"ours, {name}, half": ours(x, name, 0.5) for name in FORMATS}
        for peer, each in peers.items():
            ways |= {f"{peer}, {name}": way for name, way in each.items()}
        times = measured(ways, runs, max(1, 1_000_000 // x.numel()))
    ns = {name: [t / x.numel() * 1e9 for t in each] for name, each in times.items()}
    middle = {name: statistics.median(each) for name, each in ns.items()}
    versions = {
        name: version(name) if importlib.util.find_spec(name.replace("-", "_")) else "not installed"
        for name in ("compressed-tensors", "torchao")
    }
    print(f"{machine()}, {rows} x {columns}, {dtype}, medians of {runs}; {versions}")
    print(f"a copy: {middle['copy']:.3f} ns an element\n")
    lines = []
    for name, kind in FORMATS.items():
        mine = middle[f"ours, {name}"]
        operations, cycles = _OPERATIONS[kind]
        floor = max(middle["copy"], max(operations / 4, cycles) / 16 / ghz)
        line = [name, f"{mine:.3f}", f"{middle[f'ours, {name}, half']:.3f}"]
        line += [f"{floor:.3f}", f"{mine / floor:.2f}"]
        for peer in peers:
            theirs = middle.get(f"{peer}, {name}")
            line += ["", ""] if theirs is None else [f"{theirs:.2f}", f"{theirs / mine:.0f}"]
        lines.append(line)
    head = ["format", "ns an element", "scale 0.5", "floor", "÷ floor"]
    for peer in peers:
        head += [peer if peers[peer] else f"{peer}: not installed", "÷ ours"]
    print(table(head, lines))
    save(json_file, {"rows": rows, "columns": columns, "dtype": dtype, "ns": ns, **versions})
    plot(plot_file, ns, f"Number formats, {rows} x {columns}, {dtype}", "ns an element")


if __name__ == "__main__":
    typer.run(main)
