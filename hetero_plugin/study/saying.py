"""Reads a training log: every noisy process has said what it does, and no clean one claims to.

A process that should be noisy and runs clean looks like any other; the one line that it prints
when its noise is in place is what tells them apart.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from hetero_plugin.config import NoiseConfig

# NoiseState.describe: "hetero_noise: WHO: 28 sites (linear 28), scale 0.05, ..., spec 0123abcd"
_LINE = re.compile(r"hetero_noise: (?P<who>[^:]+): (?P<sites>\d+) sites .*\bspec (?P<spec>\w+)")
ACTOR, WORKER = "verl actor", "engine worker"


class SilentProcess(RuntimeError):
    """A process that should be noisy did not say so, or a clean run holds a noisy one."""


def noisy_processes(text: str) -> list[dict[str, Any]]:
    """What each noisy process said: `who`, `sites`, `spec`, in order of the log."""
    return [
        {"who": m["who"].strip(), "sites": int(m["sites"]), "spec": m["spec"]}
        for m in _LINE.finditer(text)
    ]


def check_log(path: Path, noise: NoiseConfig | None) -> list[dict[str, Any]]:
    """Check a training log against the arm's specification.

    Returns:
        What the noisy processes said.

    Raises:
        SilentProcess: a noisy arm without a line from the actor or from the engine's worker, a
            line with another specification or without sites, a process that said it twice; a
            clean arm with any such line.
    """
    said = noisy_processes(path.read_text(encoding="utf-8", errors="replace"))
    if noise is None:
        if said:
            raise SilentProcess(
                f"{path}: the clean arm has a noisy process: {said[0]['who']} says "
                f"{said[0]['sites']} sites; is HETERO_NOISE_CONFIG set somewhere?"
            )
        return []
    for kind in (ACTOR, WORKER):
        if not any(line["who"].startswith(kind) for line in said):
            raise SilentProcess(
                f"{path}: no {kind} said that it is noisy (expected a line 'hetero_noise: {kind} "
                f"...: N sites ... spec {noise.fingerprint}'); it may have run clean, so this "
                "arm's result is refused"
            )
    for line in said:
        if line["spec"] != noise.fingerprint:
            raise SilentProcess(
                f"{path}: {line['who']} runs the specification {line['spec']}, expected "
                f"{noise.fingerprint}"
            )
        if line["sites"] == 0 and noise.rules:
            raise SilentProcess(f"{path}: {line['who']} has no noisy site")
    twice = [who for who, count in Counter(line["who"] for line in said).items() if count > 1]
    if twice:
        raise SilentProcess(f"{path}: {twice[0]} said more than once what it does; was it rebuilt?")
    return said
