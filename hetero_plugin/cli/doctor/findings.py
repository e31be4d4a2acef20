"""What the doctor finds: one line each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

GOOD, LACKING, BROKEN = "ok", "--", "!!"


@dataclass(frozen=True)
class Finding:
    """One line: how it is, and what to do about it. ``state``: ok, -- (absent), !! (wrong)."""

    state: str
    subject: str
    detail: str
    remedy: str = ""


def version(*names: str) -> tuple[str, str] | None:
    """(name, version) of the first of these distributions that is installed."""
    for name in names:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
