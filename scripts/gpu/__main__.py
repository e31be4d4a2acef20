"""The acceptance on one GPU, or with ``--rehearse`` its CPU form at tiny size.

    python -m scripts.gpu [--rehearse] [--only NAME ...] [--again] [--budget SECONDS] [--out FOLDER]

Each check runs in a process of its own with a time limit; what passed is not run again without
``--again``. The folder gets ``gpu.json``, ``gpu.md`` and a log a check. The exit status is 1 if a
check failed; one that misses a goal, or can't run here, is counted apart and never as passed.
"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from scripts.gpu import runner
from scripts.gpu.checks import CHECKS, Check
from scripts.gpu.findings import FAILED, PASSED, SHORT, Report, Size


def child(check: Check, size: Size) -> None:
    """One check in this process; its findings are kept even if it breaks off."""
    module, _, function = check.run.partition(":")
    report = Report(size.rehearsal)
    try:
        getattr(import_module(f"scripts.gpu.{module}"), function)(size, report, **check.arguments)
    finally:
        report.save(size.out / "results" / f"{check.name}.found.json")


def about() -> dict[str, Any]:
    """The card and the versions."""
    import torch

    from hetero_plugin.attestation import versions

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"card": card, "cuda": torch.version.cuda, **versions()}


def chosen(only: list[str] | None) -> list[Check]:
    """The named checks, or all; in their order."""
    unknown = sorted(set(only or ()) - {check.name for check in CHECKS})
    if unknown:
        names = ", ".join(check.name for check in CHECKS)
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {names}")
    return [check for check in CHECKS if not only or check.name in only]


def main(
    rehearse: Annotated[bool, typer.Option(help="On a CPU, tiny, what has such a form.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="This check; may be repeated.")] = None,
    again: Annotated[bool, typer.Option(help="Also what has passed.")] = False,
    budget: Annotated[float, typer.Option(help="Seconds in all; none starts after them.")] = 1800,
    out: Annotated[Path | None, typer.Option(help="Default: runs/gpu, runs/gpu-rehearsal.")] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Say what there is.")] = False,
    name: Annotated[str | None, typer.Option("--child", hidden=True)] = None,
) -> None:
    """Run the checks and print a line each, then the table."""
    out = (out or Path("runs/gpu-rehearsal" if rehearse else "runs/gpu")).absolute()
    if name is not None:
        child(*((chosen([name])[0]), Size(rehearse, out)))
        return
    checks = chosen(only)
    if list_them:
        for check in checks:
            typer.echo(f"{check.name:17} {check.good}")
        return
    out.mkdir(parents=True, exist_ok=True)
    file = out / "gpu.json"
    records = runner.load(file)
    started, machine = time.perf_counter(), about()
    for check in checks:
        left = budget - (time.perf_counter() - started)
        done = records.get(check.name, {}).get("status")
        if (done in (PASSED, SHORT) and not again) or (done == FAILED and left <= 0):
            print(runner.line(check, records[check.name]) + " | from before", flush=True)
            continue
        reason = runner.why_not(check, rehearse)
        if reason is None and left <= 0:
            reason = f"the budget of {budget:.0f} s was used up"
        if reason is not None:
            record: dict[str, Any] = {"status": runner.NOT_RUN, "reason": reason}
        else:
            record = runner.run(check, out, rehearse, min(check.limit, left))
        print(runner.line(check, record), flush=True)
        records = runner.put(file, {check.name: record}, machine)
    text = runner.table(checks, records)
    (out / "gpu.md").write_text(text + "\n", encoding="utf-8")
    found = [records[check.name]["status"] for check in checks]
    kinds = (PASSED, SHORT, FAILED, runner.NOT_RUN)
    print("\n" + text)
    print(f"\n{', '.join(f'{found.count(kind)} {kind}' for kind in kinds)}; {file}")
    if FAILED in found:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
