"""The machine code of the Triton kernels, without a device: instructions an element, by phase.

    python benchmarks/sass.py [--capability 90 ...] [--json FILE]

Every kernel is compiled for each capability, assembled and disassembled with the tools that Triton
brings. Counted is the loop over rows, statically: both branches of an `if` inside it, no-operations
left out. An instruction belongs to the function whose source line the debug information names
innermost; where the compiler merged two, that is one of them. "Keys" is what a row's key is taken
apart with (most of it is merged into Philox), "step" the gate or the norm of a fused kernel, "loop"
addresses, the loop and the rest. "Program" is what lies outside the loop, once a program.

Bounds, in picoseconds an element: instructions at 80 % of four a cycle and multiprocessor; integer
multiplies at 64 lanes a cycle and the special-function unit at 16, where one of these is the
tighter; and the bytes at what a copy reaches. Clocks and copies are assumptions, printed below.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import triton
import typer
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hetero_plugin.kernels.cuda import formats as cuda_formats
from hetero_plugin.kernels.cuda import fused as cuda_fused
from hetero_plugin.kernels.cuda import perturb as cuda
from hetero_plugin.kernels.cuda import profile as cuda_profile
from hetero_plugin.kernels.cuda.value import DRAWS, MODELS
from hetero_plugin.kernels.formats import numbers

sys.path.insert(0, str(Path(__file__).parent))
from common import save, table

BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Name, multiprocessors, GHz, TB/s of a copy.
CARDS = {
    80: ("A100", 108, 1.41, 1.75),
    90: ("H100", 132, 1.755, 3.0),
    100: ("B200", 148, 1.85, 7.0),
}
PHASES = ("keys", "Philox", "draws", "error", "rounding", "memory", "step", "loop")
FUNCTIONS = {
    "row_of": "keys",
    "philox": "Philox",
    "_times": "Philox",
    "draw": "Philox",
    "bits_of": "Philox",
    "box_muller": "draws",
    "_minus_two_log": "draws",
    "_sine_cosine": "draws",
    "_approximate": "draws",
    "with_error": "error",
    "aid_of": "error",
    "_floor_of_quotient": "error",
    "_plus": "rounding",
    "rounded": "rounding",
    "nearest": "rounding",
    "_keep": "rounding",
    "_stochastic_f16": "rounding",
    "_stochastic_f32": "rounding",
    "four_slots": "rounding",
    "_silu": "step",
    "_act": "step",
    "_product": "step",
    "_weigh": "step",
    "_shifted": "step",
    "_quantised": "error",
    "_factors": "error",
    "_nearest": "error",
    "_of_scale": "error",
    "_outer": "error",
    "_hif4": "error",
    "_power_of_two": "error",
    "_exponent": "error",
    "_to_bfloat16": "error",
    "_bits": "error",
    "_float": "error",
    "narrow": "rounding",
    "widen": "memory",
    "load": "memory",
    "store": "memory",
    "pointers": "memory",
    "split": "memory",
    "join": "memory",
}
FORMATS = (
    "mxfp4",
    "mxfp8_e4m3",
    "int4",
    "nvfp4",
    "nvfp4|0.5|vllm",
    "nvfp4|row|vllm",
    "nvfp4|row|compressed-tensors",
    "fp8_e4m3",
    "int8",
    "hif4",
)
"""One of each form of the kernel: what is compiled for is a rule, a span and a block."""
DTYPE_NAMES = ("bf16", "fp16", "fp32")
BYTES = (2, 2, 4)


@dataclass
class Variant:
    """One compiled form of a kernel: what is constant in it, and bytes an element that it moves."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    bytes: int
    elements: int = 16
    """Of a thread, in one turn of the loop."""
    warps: int = cuda.TILE // 32


@dataclass
class Code:
    """What was counted in one variant for one capability; a thread's instructions."""

    loop: int
    program: int
    phases: dict[str, int]
    multiplies: int
    special: int
    registers: int
    spilled: int
    """Bytes of local memory and stack."""
    calls: int
    opcodes: dict[str, int] = field(default_factory=dict)


def variants() -> list[Variant]:
    """Every error model in bfloat16, one in the other dtypes and roundings, and the fused."""
    found = []

    def add(name: str, error: str, dtype: int = 0, stochastic: bool = True, paired: bool = True):  # type: ignore[no-untyped-def]
        constants = _constants(MODELS[error], dtype, stochastic, paired)
        found.append(Variant(name, cuda._perturb, constants, 2 * BYTES[dtype]))

    for error in MODELS:
        add(f"{error}, bf16", error)
    for error in ("relative_gaussian", "relative_uniform"):
        for dtype in (1, 2):
            add(f"{error}, {DTYPE_NAMES[dtype]}", error, dtype)
    add("relative_gaussian, bf16, nearest", "relative_gaussian", stochastic=False)
    add("relative_gaussian, bf16, odd widths", "relative_gaussian", paired=False)
    before = _constants(MODELS["relative_gaussian"], 0, True, True) | {"KEPT": 2}
    found.append(Variant("relative_gaussian, before a rounding to bf16", cuda._perturb, before, 8))
    for name, step, model in (
        ("gated, relative_gaussian, bf16", cuda_fused.GATED, 0),
        ("weighed, relative_gaussian, bf16", cuda_fused.WEIGHED, 0),
        ("weighed, no error, bf16", cuda_fused.WEIGHED, cuda_fused.NONE),
    ):
        constants = _constants(model, 0, True, True)
        constants |= {"STEP_KIND": step, "UNIT": 0, "IN_DTYPE": False}
        found.append(Variant(name, cuda_fused._fused, constants, 6))
    for error in FORMATS:
        known = numbers(error)
        assert known is not None
        form = cuda_formats.constants(known, torch.bfloat16, torch.bfloat16, True)
        warps = cuda_formats.WARPS
        each = cuda_formats.TILE // (32 * warps)
        found.append(Variant(f"{error}, bf16", cuda_formats._formats, form, 4, each, warps))
    for name, fresh, ranges in (("fixed", 0, False), ("some anew, ranges", 1, True)):
        table = {"FRESH": fresh, "DTYPE": 0, "KEPT": 0, "STEPS": 4, "RANGES": ranges}
        table["BLOCKS"] = cuda_profile.BLOCKS
        of = f"profile, {name}, bf16"
        warps = cuda_profile.WARPS
        each = 8 * cuda_profile.BLOCKS // (32 * warps)
        found.append(Variant(of, cuda_profile._profile, table, 4, each, warps))
    return found


def _constants(model: int, dtype: int, stochastic: bool, paired: bool) -> dict[str, Any]:
    return {
        "MODEL": model,
        "DTYPE": dtype,
        "KEPT": dtype,
        "STOCHASTIC": stochastic,
        "PAIRED": paired,
        "FAST": dtype < 2,
        "DRAW": DRAWS.get(model, 2),
        "TILE": cuda.TILE,
    }


def compiled(variant: Variant, capability: int) -> Any:
    """The variant, compiled by Triton for a capability such as 90."""
    size = BYTES[variant.constants["KEPT"]] * (2 if variant.constants.get("PAIRED") else 1)
    pointers = {"keys_ptr": "*i64", "clock_ptr": "*i64", "scales_ptr": "*fp32", "o_ptr": "*fp32"}
    pointers["most_ptr"] = "*fp32"
    pointers |= {"limits_ptr": "*fp32", "ints_ptr": "*i32", "factors_ptr": "*i64"}
    pointers["w_ptr"] = f"*i{8 * BYTES[variant.constants['DTYPE']]}"
    signature = {}
    for parameter in variant.kernel.params:
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
        elif parameter.name.endswith("_ptr"):
            signature[parameter.name] = pointers.get(parameter.name, f"*i{8 * size}")
        else:
            signature[parameter.name] = parameter.annotation_type
    # Where neighbours are loaded together, what they are loaded from lies at such an address.
    names = [parameter.name for parameter in variant.kernel.params]
    aligned = [
        (names.index(name),) for name in ("x_ptr", "y_ptr") if variant.constants.get("ALIGNED")
    ]
    attrs = {path: [["tt.divisibility", 16]] for path in aligned}
    # Not from Triton's cache: the debug information there names the sources of whoever filled it,
    # another checkout perhaps.
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.always_compile = True
        return triton.compile(
            ASTSource(variant.kernel, signature, constexprs=variant.constants, attrs=attrs),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": variant.warps, "enable_fp_fusion": False},
        )


_LINE = re.compile(r'//## File "([^"]+)", line (\d+)')
_INSTRUCTION = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)(.*)"
)
_LABEL = re.compile(r"^(\.L_x_\d+):")


def _functions(path: str, known: dict[str, list[tuple[int, int, str]]]) -> list[Any]:
    if path not in known:
        spans = []
        if Path(path).is_file():
            for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef):
                    spans.append((node.lineno, node.end_lineno or 0, node.name))
        known[path] = spans
    return known[path]


def _instructions(text: str) -> Iterator[tuple[str, str, str]]:
    """Label or opcode, the rest of the line, and the function: of one disassembly."""
    known: dict[str, list[tuple[int, int, str]]] = {}
    where = ""
    begun = False
    for line in text.splitlines():
        if line.startswith((".text.", "\t.section")) or line.lstrip().startswith(".section"):
            begun = line.startswith(".text.") or ".text." in line
        if not begun:
            continue
        if found := _LINE.search(line):
            spans = _functions(found[1], known)
            number = int(found[2])
            where = next((n for first, last, n in spans if first <= number <= last), "")
        elif found := _LABEL.match(line):
            yield found[1], "", where
        elif found := _INSTRUCTION.match(line):
            yield found[2], found[3], where


def _tool(name: str, *arguments: str) -> str:
    done = subprocess.run([BIN / name, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def count(cubin: bytes) -> Code:
    """Counts the instructions of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = _tool("nvdisasm", "-g", file.name)
        usage = _tool("cuobjdump", "-res-usage", file.name)
    lines = list(_instructions(text))
    labels = {name: i for i, (name, _, _) in enumerate(lines) if name.startswith(".L")}
    # The loop over rows: the longest way that a branch goes back.
    begin, end = 0, len(lines)
    back = [
        (labels[target[0]], i)
        for i, (opcode, rest, _) in enumerate(lines)
        if opcode.startswith("BRA")
        and (target := re.findall(r"\.L_x_\d+", rest))
        and labels.get(target[0], i) < i - 1
    ]
    if back:
        begin, end = max(back, key=lambda span: span[1] - span[0])
    real = [
        (i, opcode, where)
        for i, (opcode, _, where) in enumerate(lines)
        if not opcode.startswith((".L", "NOP"))
    ]
    inside = [(opcode, where) for i, opcode, where in real if begin <= i <= end]
    phases = Counter(FUNCTIONS.get(where, "loop") for _, where in inside)
    opcodes = Counter(opcode.split(".")[0] for opcode, _ in inside)
    # A jump to the exit may be written as a call; nothing returns from there.
    real_calls = [
        i
        for i, (opcode, rest, _) in enumerate(lines)
        if opcode.startswith("CALL")
        and lines[labels.get((re.findall(r"\.L_x_\d+", rest) or [""])[0], -1) + 1][0] != "EXIT"
    ]
    moves = sum(opcode.startswith("IMAD.MOV") for opcode, _ in inside)
    return Code(
        loop=len(inside),
        program=len(real) - len(inside),
        phases={phase: phases[phase] for phase in PHASES},
        multiplies=opcodes["IMAD"] - moves,
        special=opcodes["MUFU"] + opcodes["I2F"] + opcodes["F2I"] + opcodes["FRND"],
        registers=int(re.findall(r"REG:(\d+)", usage)[0]),
        spilled=sum(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", usage))),
        calls=len(real_calls),
        opcodes=dict(opcodes.most_common()),
    )


def bounds(code: Code, variant: Variant, capability: int) -> tuple[float, str, float]:
    """Picoseconds an element that the instructions need, which of them, and that the bytes do."""
    _, processors, clock, bandwidth = CARDS[capability]
    lanes = {
        "issue": (code.loop, 128 * 0.8),
        "multiply": (code.multiplies, 64),
        "special": (code.special, 16),
    }
    times = {
        name: instructions / variant.elements / (rate * processors * clock) * 1e3
        for name, (instructions, rate) in lanes.items()
    }
    tightest = max(times, key=lambda name: times[name])
    return times[tightest], tightest, variant.bytes / bandwidth


def main(
    capability: Annotated[
        list[int] | None, typer.Option(help="Compute capabilities, as 90; default: all known.")
    ] = None,
    only: Annotated[str, typer.Option(help="Variants whose name has this in it.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the counts.")] = None,
) -> None:
    """Print a table for each capability."""
    record: dict[str, Any] = {}
    for target in capability or sorted(CARDS):
        card, processors, clock, bandwidth = CARDS[target]
        rows = []
        for variant in variants():
            if only not in variant.name:
                continue
            code = count(compiled(variant, target).asm["cubin"])
            issue, which, memory = bounds(code, variant, target)
            n = variant.elements
            record[f"sm_{target}, {variant.name}"] = vars(code)
            rows.append(
                [
                    variant.name,
                    f"{code.loop / n:.1f}",
                    *(f"{code.phases[phase] / n:.1f}" for phase in PHASES),
                    *(str(v) for v in (code.program, code.registers, code.spilled, code.calls)),
                    f"{issue:.2f} ({which})",
                    f"{memory:.2f}",
                ]
            )
        print(
            f"\nsm_{target}; bounds for a {card}: {processors} multiprocessors at {clock} GHz, a "
            f"copy at {bandwidth} TB/s\n"
        )
        head = ["kernel", "an element", *PHASES, "program", "registers", "spilled", "calls"]
        print(table([*head, "instructions, ps", "memory, ps"], rows))
    save(json_file, record)


if __name__ == "__main__":
    typer.run(main)
