"""Two recordings compared: which operator first differs by more than it may, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hetero_plugin.config import ConfigError
from hetero_plugin.errors.profile import EDGES, Profile, Table, nearest_k
from hetero_plugin.profile.compare.causes import Finding, diagnose, harmless
from hetero_plugin.profile.compare.errors import SURE, Errors, errors_of
from hetero_plugin.profile.fit.elements import Elements, differences
from hetero_plugin.profile.fit.split import size_of
from hetero_plugin.profile.fit.tables import moments
from hetero_plugin.profile.recording import Header, Recording, SiteRecord, check_comparable

__all__ = ["LIMIT", "compare", "site_row"]

LIMIT = 1.5
"""Of one machine's error over the other's, both against float64."""
Progress = Callable[[str, int, int], None]


def compare(
    a: Recording,
    b: Recording,
    *,
    profile: Profile | None = None,
    limit: float = LIMIT,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compares two machines operator by operator, in the order of the forward pass.

    Args:
        a, b: of the same operators on the same inputs.
        profile: of these two machines as they should be; then an operator is measured by it where
            it has a table, and by float64 elsewhere.
        limit: over 1.
        progress: called with what is being done, how much of it is, and of how much.

    Returns:
        ``sites``: in execution order, each with ``ratio``, ``sure``, ``beyond`` and more;
        ``ranked``: names, the worst first; ``first``: the first beyond, or None; ``sentence``.

    Raises:
        ConfigError: recordings of different things, a limit of 1 or less, or neither a float64
            result nor a profile to compare with.
    """
    if not 1 < limit < float("inf"):
        raise ConfigError(f"--limit {limit:g}: it should be over 1; 1.5 is usual")
    names = check_comparable(a, b)
    rows = []
    for done, name in enumerate(names):
        if progress is not None:
            progress("operators", done, len(names))
        rows.append(site_row(a.site(name), b.site(name), a.header, profile, limit))
    if all(row["by"] == "nothing" for row in rows):
        raise ConfigError(
            f"{a.path} and {b.path}: hold no float64 results; give --profile, or record with "
            "`hetero-noise profile record`, which computes them"
        )
    beyond = [row for row in rows if row["beyond"]]
    ranked = sorted(rows, key=lambda row: (-row["rank"], -row["changed"]))
    found: dict[str, Any] = {
        "a": _told(a),
        "b": _told(b),
        "limit": limit,
        "profile": None if profile is None else {"name": profile.name, "sha256": profile.digest},
        "sites": rows,
        "ranked": [row["name"] for row in ranked],
        "first": beyond[0]["name"] if beyond else None,
    }
    found["sentence"] = _sentence(rows, beyond, limit)
    return found


def site_row(
    a: SiteRecord, b: SiteRecord, header: Header, profile: Profile | None, limit: float
) -> dict[str, Any]:
    """One operator on both machines. ``rank`` orders by how far it is off: 1 is not at all."""
    errors, elements = errors_of(a, b), differences(a, b, EDGES)
    row: dict[str, Any] = {
        "name": a.entry.name,
        "kind": a.entry.kind,
        "layer": a.entry.layer,
        "changed": float((elements.ulps != 0)[elements.finite].mean())
        if elements.finite.any()
        else 0.0,
        "by": "nothing",
        "error": None,
        "ratio": None,
        "sure": 1.0,
        "beyond": False,
        "pattern": None,
        "floor": None,
        "machine": None,
        "cause": None,
    }
    finding: Finding | None = None
    if errors is not None:
        row.update(by="float64", error=list(errors.rms), ratio=errors.ratio, sure=errors.sure)
        if errors.rms != (0.0, 0.0):
            finding = diagnose(errors, a, b, header.sequences, header.positions)
        if errors.sure > limit or _differ(errors):
            row["beyond"] = True
        if finding is not None and finding.pattern is not None:
            row.update(beyond=True, pattern=finding.pattern.name)
    table = None if profile is None else _table(profile, a, elements)
    if table is not None:
        ratio, sure = _against(table, elements)
        row.update(by="profile", ratio=ratio, sure=sure, beyond=sure > limit)
        if errors is not None and _differ(errors):
            row["beyond"] = True
    if row["beyond"] and finding is not None:
        known = harmless(b, a) if finding.machine == "b" else harmless(a, b)
        row["machine"] = finding.machine
        if known is not None:
            row.update(beyond=False, floor=known)
        elif finding.cause is not None:
            row["cause"] = {"name": finding.cause.name, "says": finding.cause.says}
    broken = errors is not None and _differ(errors)
    row["rank"] = float("inf") if broken else max(row["sure"], limit if row["beyond"] else 1.0)
    if not np.isfinite(row["rank"]):
        row["rank"] = 1e30
    for key in ("ratio", "sure"):
        if row[key] is not None and not np.isfinite(row[key]):
            row[key] = 1e30
    return row


def _differ(errors: Errors) -> bool:
    """One machine has numbers that are none where the other has not."""
    return errors.broken[0] != errors.broken[1]


def _table(profile: Profile, a: SiteRecord, elements: Elements) -> Table | None:
    sizes = profile.of_kind(a.entry.kind).get(elements.dtype, {})
    k = nearest_k(sorted(sizes), size_of(a.entry))
    return None if k is None else sizes[k]


def _against(table: Table, elements: Elements) -> tuple[float, float]:
    """RMS of the difference over what a table says, and that less `SURE` standard errors."""
    wanted = elements.ulp**2 * moments(table)["square"][elements.bin]
    seen = np.where(elements.finite, elements.change**2, 0.0)
    rows = np.stack([np.where(elements.finite, wanted, 0.0).sum(1), seen.sum(1)])
    sums = rows.sum(1)
    if sums[1] == 0:
        return 0.0, 1.0
    if sums[0] == 0:
        return float("inf"), float("inf")
    pull = 0.5 * (rows[1] / sums[1] - rows[0] / sums[0])
    error = float(np.sqrt((pull**2).sum() * len(pull) / max(len(pull) - 1, 1)))
    log = 0.5 * float(np.log(sums[1] / sums[0]))
    return float(np.exp(log)), float(np.exp(max(0.0, log - SURE * error)))


def _told(recording: Recording) -> dict[str, Any]:
    header = recording.header
    return {
        "file": recording.path.name,
        "variant": header.variant,
        "engine": header.engine,
        "machine": header.machine,
        "sha256": header.digest,
    }


def _sentence(rows: list[dict[str, Any]], beyond: list[dict[str, Any]], limit: float) -> str:
    if not beyond:
        largest = max((row["sure"] for row in rows), default=1.0)
        floors = sum(row["floor"] is not None for row in rows)
        also = f"; {floors} norms differ by where they round, to the bit" if floors else ""
        return (
            f"no operator of {len(rows)} is beyond the limit of {limit:g}: what differs is the "
            f"floor of two correct machines (largest ratio that is sure: {largest:.2f}){also}"
        )
    first = beyond[0]
    said = f"{first['name']} ({first['kind']}) is the first of {len(beyond)} beyond the limit"
    if first["ratio"] is not None and first["ratio"] < 1e30:
        said += f": {first['ratio']:.3g} times " + (
            "what the profile says" if first["by"] == "profile" else "the error of A, on B"
        )
    cause = first["cause"]
    if cause is not None:
        said += f"; machine {first['machine'].upper()}, {cause['name']}: {cause['says']}"
    elif first["machine"] is not None:
        said += f"; machine {first['machine'].upper()} is the odd one, and no known bug looks so"
    return said
