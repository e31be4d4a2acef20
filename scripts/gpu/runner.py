"""Runs checks, each in a process of its own, and keeps what they found."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.gpu.checks import Check
from scripts.gpu.findings import FAILED, NOTE, PASSED, SHORT
from scripts.gpu.needs import gpu_vllm, missing

ROOT = Path(__file__).resolve().parents[2]
NOT_RUN = "not run"
# vLLM's engine stays in the check's process, so that the profiler sees its kernels; a function can
# be sent to a worker; nothing is asked of a network.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def why_not(check: Check, rehearsal: bool) -> str | None:
    """Why a check can't run here; None where it can."""
    if rehearsal:
        if check.rehearsal:
            return f"no CPU form: {check.rehearsal}"
        needs = [n for n in check.needs if not n.startswith(("program:", "memory:"))]
    else:
        needs = ["cuda", *check.needs]
        if "vllm" in needs and (reason := gpu_vllm()):
            return reason
    return next((reason for need in needs if (reason := missing(need))), None)


def run(check: Check, out: Path, rehearsal: bool, limit: float) -> dict[str, Any]:
    """Runs one check to its end or its limit; the record is complete whatever happens to it."""
    results, log = out / "results", out / "logs" / f"{check.name}.log"
    for folder in (results, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    found = results / f"{check.name}.found.json"
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "scripts.gpu", "--child", check.name, "--out", str(out)]
    env = {**os.environ, **ENVIRONMENT, **check.env, "VLLM_CACHE_ROOT": str(out / "cache" / "vllm")}
    env["TORCHINDUCTOR_CACHE_DIR"] = str(out / "cache" / "inductor")
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    began = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command + (["--rehearse"] if rehearsal else []),
            cwd=ROOT,
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
            ended = f"exit status {status}" if status else ""
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit:.0f} s"
        finally:
            _end(process)
    record: dict[str, Any] = {"status": FAILED, "findings": []}
    if found.exists():
        record = json.loads(found.read_text())
        found.unlink()
    if ended:
        record["status"] = FAILED
        record["error"] = f"{ended}: {last_words(log)}"
    return record | {"seconds": round(time.perf_counter() - began, 1), "log": str(log)}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends whatever the check has started: an engine left behind would hold the device's memory."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_words(log: Path) -> str:
    """The last line of a log that names an error, or its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = ("File ", "subprocess.CalledProcessError")  # the program that was called said why
    blamed = [line for line in lines if "Error" in line and not line.startswith(told)]
    return (blamed or lines or ["it said nothing"])[-1][:400]


def load(path: Path) -> dict[str, dict[str, Any]]:
    """Records of earlier runs, by check; none where there is no file."""
    return json.loads(path.read_text())["checks"] if path.exists() else {}


def put(
    path: Path, records: dict[str, dict[str, Any]], about: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Adds records to those in the file, with counts, and gives all of them.

    Written whole or not at all; two runs side by side with one folder keep each other's.
    """
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        every = load(path) | records
        counts = {
            status: sum(one["status"] == status for one in every.values())
            for status in (PASSED, SHORT, FAILED, NOT_RUN)
        }
        whole = {"about": about, "counts": counts, "checks": every}
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(whole, indent=2), encoding="utf-8")
        fresh.replace(path)
    return every


def line(check: Check, record: dict[str, Any]) -> str:
    """One line: name, status, seconds, what good is, and what was wrong or short of it."""
    said = [record["error"]] if "error" in record else []
    said += [record["reason"]] if "reason" in record else []
    said += [
        f"{row['name']}: {row['detail']}"
        for row in record.get("findings", [])
        if row["status"] in (FAILED, SHORT)
    ]
    seconds = f"{record['seconds']:6.1f} s" if "seconds" in record else " " * 8
    words = f"{check.name:17} {record['status']:17} {seconds}  {check.good}"
    return words + (f" | {'; '.join(said)}"[:700] if said else "")


def table(checks: Sequence[Check], records: dict[str, dict[str, Any]]) -> str:
    """Every finding as Markdown: the table of docs/performance.md."""
    lines = ["| check | finding | result | value |", "|---|---|---|---|"]
    for check in checks:
        record = records.get(check.name, {"status": NOT_RUN, "reason": "not asked for"})
        rows = record.get("findings", [])
        said = record.get("error") or record.get("reason") or check.good
        lines.append(f"| **{check.name}** | {_cell(said)} | **{record['status']}** | |")
        lines += [
            f"| | {_cell(row['name'])} | {'' if row['status'] == NOTE else row['status']} | "
            f"{_cell(row['detail'])} |"
            for row in rows
        ]
    return "\n".join(lines)


def _cell(text: object) -> str:
    return " ".join(str(text).replace("|", "/").split())[:300]
