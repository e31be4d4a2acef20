"""Checks of the operator itself: its tests, a memory checker, its speed beside a copy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import torch

from scripts.gpu.findings import Report, Size

ROOT = Path(__file__).resolve().parents[2]


def doctor(size: Size, report: Report) -> None:
    """`hetero-noise doctor`, and which kernel runs here."""
    code = "from hetero_plugin.cli import app; app()"
    done = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True)
    print(done.stdout, done.stderr[-2000:])
    wrong = [line for line in done.stdout.splitlines() if line.lstrip().startswith("!!")]
    report.hold("nothing is wrong here", done.returncode == 0, "; ".join(wrong)[:600] or "no !!")
    from hetero_plugin.kernels import KERNEL, KERNEL_CUDA

    kernel, right = (KERNEL, "cpp") if size.rehearsal else (KERNEL_CUDA, "triton")
    report.hold("the native kernel runs", kernel.startswith(right), f"{kernel}, not the reference")
    if not size.rehearsal:
        properties = torch.cuda.get_device_properties(0)
        report.note("card", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    report.note("torch", torch.__version__)


def tests(size: Size, report: Report) -> None:
    """The tests of the kernels, those marked gpu among them."""
    which = ["tests/kernels/test_cuda.py", "tests/kernels/test_fused.py"]
    results = size.out / "kernel-tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-rs", f"--junitxml={results}", *which]
    done = subprocess.run(command, cwd=ROOT)
    cases = list(xml.parse(results).getroot().iter("testcase"))
    bad = [
        c.get("name") for c in cases if c.find("failure") is not None or c.find("error") is not None
    ]
    skipped = [c for c in cases if c.find("skipped") is not None]
    report.hold(
        "the kernels' tests pass",
        done.returncode == 0 and len(cases) > len(skipped),
        f"{len(cases) - len(bad) - len(skipped)} passed, {len(bad)} failed, {len(skipped)} skipped "
        + ", ".join(map(str, bad[:6])),
    )


def _with_root() -> dict[str, str]:
    """The environment, with this checkout before what it finds packages by already."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def memcheck(size: Size, report: Report) -> None:
    """Every kernel once or twice at odd sizes, under compute-sanitizer's memcheck."""
    command = [sys.executable, "-m", "scripts.gpu.driver", size.device]
    if not size.rehearsal:
        command = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-4000:], done.stderr[-4000:])
    summary = [line for line in done.stdout.splitlines() if "ERROR SUMMARY" in line]
    launched = [line for line in done.stdout.splitlines() if line.startswith("launched")]
    clean = size.rehearsal or any("ERROR SUMMARY: 0 errors" in line for line in summary)
    report.hold(
        "no access outside a tensor",
        done.returncode == 0 and clean and bool(launched),
        "; ".join([*launched, *summary]) or f"exit status {done.returncode}",
    )


def speed(size: Size, report: Report) -> None:
    """benchmarks/kernel.py: in bfloat16, beside a copy, and at scale 0."""
    for rows, columns in ((64, 256),) if size.rehearsal else ((65_536, 17_920), (64, 17_920)):
        file = size.out / f"kernel-{rows}.json"
        command = [sys.executable, "benchmarks/kernel.py", "--rows", str(rows), "--runs", "5"]
        command += ["--columns", str(columns), "--json", str(file)]
        subprocess.run(command, cwd=ROOT, check=True, env=_with_root())
        nanoseconds = json.loads(file.read_text())["ns"]
        middle = {name: sorted(v)[len(v) // 2] for name, v in nanoseconds.items()}
        shape = f"{rows} x {columns}"
        for name, value in middle.items():
            report.note(f"{shape}, {name}, ps an element", 1e3 * value)
        copy = middle["copy"]
        ours, zero = middle["ours, relative_gaussian"], middle["ours, scale 0"]
        if rows >= 65_536:
            report.goal(f"{shape}: copy ÷ relative_gaussian", copy / ours, 0.80, least=True)
            report.goal(f"{shape}: scale 0 ÷ copy", zero / copy, 1.1)
        report.hold(f"{shape} was timed", min(copy, ours, zero) > 0, f"ours {1e3 * ours:.2f} ps")


def graphed(size: Size, report: Report) -> None:
    """benchmarks/decode.py: a decode step and a prefill of the 1.5B shape as captured graphs."""
    file = size.out / "decode.json"
    command = [sys.executable, "benchmarks/decode.py", "--runs", "7", "--json", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, env=_with_root())
    for work, limit in (("decode", 1.03), ("prefill", 1.10)):
        seconds = json.loads(file.read_text())["seconds"][work]
        middle = {name: sorted(each)[len(each) // 2] for name, each in seconds.items()}
        report.hold(f"{work} was timed", min(middle.values()) > 0, f"{len(middle)} ways")
        for name, value in middle.items():
            report.note(f"{work}, {name}, ms", 1e3 * value)
            if name != "clean":
                report.goal(f"{work}, {name}: time ÷ clean", value / middle["clean"], limit)
