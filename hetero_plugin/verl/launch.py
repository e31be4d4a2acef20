"""Runs verl to its end: a process of its own, its log and its metrics."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hetero_plugin.verl import begun, group, resume
from hetero_plugin.verl.kept import keep_beside
from hetero_plugin.verl.lost import LostWorkers
from hetero_plugin.verl.metrics import by_step, read_metrics
from hetero_plugin.verl.miniature import MiniatureRun
from hetero_plugin.verl.noderun import NodeRun

__all__ = [
    "LaunchError",
    "MiniatureRun",
    "command",
    "execute",
    "read_metrics",
]


class LaunchError(RuntimeError):
    """A run that failed; the message ends with the log's last lines and where the rest is."""


def command(run: MiniatureRun | NodeRun) -> list[str]:
    """The command line, for ``subprocess`` (nothing in it needs a shell)."""
    return [sys.executable, "-m", "verl.trainer.main_ppo", *run.words]


def _logged(run: MiniatureRun | NodeRun) -> str:
    """Where the log is, and its last lines."""
    if not run.log.is_file():
        return f"log: {run.log}\n(no log was written)"
    text = run.log.read_text(encoding="utf-8", errors="replace").splitlines()
    blamed = [line for line in text if re.search(r"(Error|Exception|hetero_noise)\b", line)]
    return "\n".join([f"log: {run.log}", *blamed[-8:], "...", *text[-30:]])


def execute(
    run: MiniatureRun | NodeRun,
    on_progress: Callable[[int, dict[str, Any]], None] | None = None,
    *,
    timeout: float | None = None,
) -> list[dict[str, Any]]:
    """Runs it to its end and returns the metrics of every step, those before it resumed included.

    ``on_progress(step, data)`` is called for each line of metrics as it appears, step 0 being
    the validation before training. The output goes to ``run.log``. ``timeout`` is in seconds.
    On an interrupt the run and all its processes end with it. What an earlier run left in the
    folder is kept beside (``metrics-1.jsonl``, ``train-1.log``, ``checkpoints-1``), and is no part
    of this one. A run that resumes leaves the checkpoints where they are, and goes on from the last
    whose step has its metrics.

    Raises:
        LaunchError: the process failed, took too long, lost workers that it waits for, or left no
            checkpoint.
        ConfigError: it would go on from a checkpoint of a training that samples in another way.
    """
    run.output.mkdir(parents=True, exist_ok=True)
    begun.check(run)
    for path in (run.metrics, run.log, *(() if run.resumes else (run.checkpoints,))):
        keep_beside(path)
    if run.resumes and (step := resume.go_back(run.checkpoints, set(by_step(run.metrics)))) >= 0:
        print(
            f"hetero_noise: {run.name} was stopped before the metrics of its last checkpoint's "
            f"step were written; it goes on from step {step}",
            flush=True,
        )
    begun.write(run)
    before = set(run.checkpoints.glob("attestation-*.json"))
    code = _run(run, on_progress, timeout)
    if code != 0:
        raise LaunchError(f"verl run {run.name!r} failed (exit {code}); {_logged(run)}")
    rows = read_metrics(run.metrics)
    if run.resumes:
        rows = [{"step": step, "data": data} for step, data in by_step(run.metrics).items()]
    trained = [row for row in rows if row["step"] > 0]
    if not trained or trained[-1]["step"] != run.steps or not run.checkpoint.is_dir():
        raise LaunchError(
            f"verl run {run.name!r} ended without its {run.steps} steps and their checkpoint "
            f"({run.checkpoint}); {_logged(run)}"
        )
    if run.noise is not None:
        _check_attested(run, before)
    return rows


def _run(
    run: MiniatureRun | NodeRun,
    on_progress: Callable[[int, dict[str, Any]], None] | None,
    timeout: float | None,
) -> int:
    """The exit status of its process; in any case nothing of it is left running."""
    deadline = None if timeout is None else time.monotonic() + timeout
    with run.log.open("w", encoding="utf-8") as log:
        log.write(f"# {shlex.join(command(run))}\n")
        log.flush()
        # Hydra writes its folder where the process runs.
        process = group.start(command(run), run.environment(), run.output, log)
        seen, lost = 0, LostWorkers(run.log)
        try:
            while True:
                ended = process.poll()
                rows = read_metrics(run.metrics)
                for row in rows[seen:]:
                    if on_progress is not None:
                        on_progress(int(row["step"]), row["data"])
                if len(rows) > seen:
                    seen = len(rows)
                    lost.stepped()
                if ended is not None:
                    return ended
                if (why := lost.hopeless()) is not None:
                    raise LaunchError(f"verl run {run.name!r} was stopped: {why}; {_logged(run)}")
                if deadline is not None and time.monotonic() > deadline:
                    raise LaunchError(
                        f"verl run {run.name!r} was stopped after {timeout:.0f} s; {_logged(run)}"
                    )
                group.pause(0.5)
        finally:
            group.end(process, patience=10.0)


def _check_attested(run: MiniatureRun | NodeRun, before: set[Path]) -> None:
    """A noisy run has proved its noise, or it has not ended well; ``before``: of earlier runs."""
    for when in ("start", "end"):
        found = set(run.checkpoints.glob(f"attestation-{when}-step*.json")) - before
        records = [json.loads(path.read_text(encoding="utf-8")) for path in found]
        if not records or not all(record["passed"] for record in records):
            raise LaunchError(
                f"verl run {run.name!r} left no passing attestation of its {when}; {_logged(run)}"
            )
