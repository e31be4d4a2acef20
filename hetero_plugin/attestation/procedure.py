"""Attestation by knock-in: proof, through the path that computes results, that noise is there.

A probe runs fixed prompts through an engine and returns log-probabilities. With it:

1. everything off must equal the clean output exactly, and be repeatable;
2. each selected site *alone*, at a scale that must show, must change the output;
3. everything at its configured scale must change the output;
4. everything off again must be clean again, and the configured scales are put back.

Where the specification has AQN, the same is done with the offset of each noisy norm, and the switch
for everything has to put all offsets out of force. Where the path allows (Hugging Face, eager) the
error that was really added is measured beside what was asked.

Sites are tried one at a time. Trying them in groups (``group``) is faster and proves less: a group
whose output changes shows that *one* of its members works, not that each does; the record says so.

What is proven: every listed site perturbs the output of the engine that was probed, in the
processes listed. What is not: that the *size* of the error is right (``realised`` measures that),
or that a different process, started later, is noisy too. The signature is a plain SHA-256 over
the contents: it catches a record that was edited or truncated, not a forger.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hetero_plugin.attestation.knock_in import difference, effect, equal, knock_in
from hetero_plugin.attestation.probe import (
    AQNProbe,
    DeterministicProbe,
    GatedProbe,
    MeasuringProbe,
    Probe,
    ProbedSite,
)
from hetero_plugin.attestation.record import FORMAT, named, signature, versions

__all__ = ["KNOCK_IN_SCALE", "KNOCK_IN_SIGMA", "attest"]

log = logging.getLogger("hetero_noise")
# Relative to its input's size, an error of a half: it reaches the log-probabilities from any
# depth of any model in any dtype, unless the site is dead.
KNOCK_IN_SCALE = 0.5
# Of a norm's weight, which is about one; any size that shows will do.
KNOCK_IN_SIGMA = 0.5


def attest(
    probe: Probe,
    *,
    scale: float = KNOCK_IN_SCALE,
    group: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Attests an engine; always returns a record, passing or not, and restores the scales.

    Args:
        probe: the engine.
        scale: the scale at which each site is tried alone.
        group: 1 proves each site by a pass of its own; more tries that many together at the least,
            found by halving, which takes fewer passes and proves less (see `knock_in`).
        progress: called with (sites done, sites in all).

    Returns:
        A JSON-able record: ``passed``, ``seen``/``of``, ``sites``, ``aqn``, ``realised``,
        ``by_kind``, ``checks``, ``failures``, ``fingerprint``, ``processes``, ``versions``,
        ``time``, ``signature``.
    """
    started = time.perf_counter()
    found = _Findings()
    description: dict[str, Any] = {}
    try:
        description = probe.describe()
        found.expected = list(probe.expected())
        found.norms = list(probe.aqn_expected()) if isinstance(probe, AQNProbe) else []
        _check_description(found, description)
        try:
            _run(probe, found, scale, group, progress)
        finally:
            probe.configured()
    except Exception as error:
        # An engine that can't be asked has not shown its noise; that is a finding, not a crash.
        found.check("engine answers", False, f"{type(error).__name__}: {error}"[:500])
        log.exception("the attestation broke off")
    found.check_seen()
    proof = "each site alone" if group == 1 else f"groups of up to {group} sites"
    record = {
        "format": FORMAT,
        "engine": probe.engine,
        **description,
        "proof": proof,
        "knock_in_scale": 1.0 if found.measured() else scale,
        **found.contents(),
        "versions": versions(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.perf_counter() - started, 3),
    }
    record["signature"] = signature(record)
    return record


class _Findings:
    """What an attestation has found so far."""

    def __init__(self) -> None:
        self.checks: list[dict[str, Any]] = []
        self.sites: list[dict[str, Any]] = []
        self.aqn: list[dict[str, Any]] = []
        self.realised: dict[str, Any] = {}
        self.expected: list[ProbedSite] = []
        self.norms: list[str] = []
        self.off = self.noisy = np.zeros(0)

    def check(self, name: str, passed: bool, detail: str) -> None:
        self.checks.append({"name": name, "passed": bool(passed), "detail": detail})

    def check_seen(self) -> None:
        tried = {site["name"] for site in self.sites}
        unseen = [site["name"] for site in self.sites if not site["seen"]]
        unseen += [site.name for site in self.expected if site.name not in tried]
        self.check("every site seen", not unseen, f"not seen: {named(unseen)}" if unseen else "all")
        if self.norms:
            seen = {row["name"] for row in self.aqn if row["seen"]}
            lost = [name for name in self.norms if name not in seen]
            detail = f"not seen: {named(lost)}" if lost else f"all {len(seen)}"
            self.check("every AQN norm seen", not lost, detail)

    def measured(self) -> bool:
        """Whether every site's error is a measured profile."""
        return bool(self.expected) and all(site.measured for site in self.expected)

    def contents(self) -> dict[str, Any]:
        """What a record says of it."""
        return {
            "checks": self.checks,
            "sites": self.sites,
            "aqn": self.aqn,
            "realised": self.realised,
            "seen": sum(bool(site["seen"]) for site in self.sites),
            "of": len(self.expected),
            "by_kind": _by_kind(self.sites),
            "configured_effect": effect(self.off, self.noisy),
            "failures": [f"{c['name']}: {c['detail']}" for c in self.checks if not c["passed"]],
            "passed": all(c["passed"] for c in self.checks),
        }


def _run(
    probe: Probe,
    found: _Findings,
    scale: float,
    group: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """The passes through the engine, in the order of the module's description."""
    total = len(found.expected) + len(found.norms)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, total)

    _look_at_off(probe, found)
    _knock_in_sites(probe, found, scale, group, tell)
    _knock_in_norms(probe, found, group, tell)
    _look_at_configured(probe, found)
    probe.off()
    after = probe.output()
    found.check("clean again afterwards", equal(found.off, after), difference(found.off, after))


def _look_at_off(probe: Probe, found: _Findings) -> None:
    """Everything off: repeatable, clean, and numbers at all."""
    probe.off()
    off = found.off = probe.output()
    again = probe.output()
    found.check("repeatable", equal(off, again), difference(off, again))
    clean = probe.clean()
    found.check("off equals clean", equal(off, clean), difference(off, clean))
    finite = bool(np.isfinite(off).all()) and off.size > 0
    found.check("finite output", finite, f"{off.size} values")


def _knock_in_sites(
    probe: Probe, found: _Findings, scale: float, group: int, tell: Callable[[int], None]
) -> None:
    by_name = {site.name: site for site in found.expected}

    def alone(names: Sequence[str]) -> None:
        # A profile changes few elements, and no more than it says: all that it has is needed.
        measured = all(by_name[name].measured for name in names)
        probe.only(names, 1.0 if measured else scale)

    rows = knock_in(
        list(by_name),
        alone,
        probe.output,
        found.off,
        group=group,
        progress=tell,
    )
    found.sites = [
        {"name": row["name"], "kind": by_name[row["name"]].kind, **row}
        | {"asked": by_name[row["name"]].scale}
        for row in rows
    ]


def _knock_in_norms(
    probe: Probe, found: _Findings, group: int, tell: Callable[[int], None]
) -> None:
    """Each offset of AQN alone, and all of them put out of force by the switch for everything."""
    if not (isinstance(probe, AQNProbe) and found.norms):
        return
    found.aqn = knock_in(
        found.norms,
        lambda names: probe.only_aqn(names, KNOCK_IN_SIGMA),
        probe.output,
        found.off,
        group=group,
        progress=lambda done: tell(len(found.expected) + done),
    )
    if isinstance(probe, GatedProbe):
        probe.only_aqn(found.norms, KNOCK_IN_SIGMA)
        gated = probe.gated()
        found.check("off is off under AQN", equal(found.off, gated), difference(found.off, gated))


def _look_at_configured(probe: Probe, found: _Findings) -> None:
    """Everything as the specification has it: seen in the output and, where it can be, measured."""
    probe.configured()
    off, noisy = found.off, probe.output()
    found.noisy = noisy
    if found.expected:
        changed, asked = not equal(off, noisy), any(site.scale > 0 for site in found.expected)
        name = "configured noise changes the output" if asked else "configured noise is zero"
        found.check(name, changed == asked, difference(off, noisy))
    if isinstance(probe, DeterministicProbe) and probe.deterministic() and found.expected:
        again = probe.output()
        found.check(
            "the same input has the same error", equal(noisy, again), difference(noisy, again)
        )
    if isinstance(probe, MeasuringProbe):
        found.realised, checks = probe.measured()
        for one in checks:
            found.check(*one)


def _check_description(found: _Findings, description: dict[str, Any]) -> None:
    """What the engine says of itself, against what the specification selects."""
    check, expected, norms = found.check, found.expected, found.norms
    check(
        "sites selected",
        bool(expected) or bool(norms),
        f"{len(expected)} sites, {len(norms)} norms of AQN"
        if expected or norms
        else "the specification selects no site here",
    )
    engine_sites = description.pop("sites", None)
    if engine_sites is not None:
        missing = sorted({site.name for site in expected} - set(engine_sites))
        surplus = sorted(set(engine_sites) - {site.name for site in expected})
        detail = f"engine and specification name the same {len(expected)} sites"
        if missing or surplus:
            detail = f"unknown to the engine: {named(missing)}; not expected: {named(surplus)}"
        check("same sites in engine and specification", not missing and not surplus, detail)
    prints = {str(p.get("fingerprint")) for p in description.get("processes", [])}
    agreed = prints == {str(description.get("fingerprint"))}
    check("one fingerprint in every process", agreed, ", ".join(sorted(prints)) or "no process")


def _by_kind(sites: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    kinds: dict[str, dict[str, int]] = {}
    for site in sites:
        row = kinds.setdefault(site["kind"], {"seen": 0, "of": 0})
        row["of"] += 1
        row["seen"] += bool(site["seen"])
    return kinds
