"""The attestation protocol, on a small engine of matrices with real faults."""

from __future__ import annotations

import copy
import json

import pytest
from toy import FINGERPRINT, NAMES, MatrixProbe

from hetero_plugin import attestation


def test_a_working_engine_passes_and_is_restored() -> None:
    probe = MatrixProbe()
    progress: list[tuple[int, int]] = []
    record = attestation.attest(probe, progress=lambda done, of: progress.append((done, of)))
    assert record["passed"] and record["failures"] == []
    assert (record["seen"], record["of"]) == (4, 4)
    assert record["by_kind"] == {"linear": {"seen": 4, "of": 4}}
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert probe.scales == dict.fromkeys(NAMES, 0.05)
    assert all(site["max_abs"] > 0 for site in record["sites"])
    assert attestation.problems(record, FINGERPRINT) == []
    attestation.require(record, FINGERPRINT)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("stuck on", "off equals clean"),
        ("unrepeatable", "repeatable"),
        ("other process", "one fingerprint in every process"),
        ("lost site", NAMES[3]),
        ("not finite", "not seen"),
    ],
)
def test_each_fault_is_caught_and_named(fault: str, named: str) -> None:
    record = attestation.attest(MatrixProbe(fault=fault))
    assert not record["passed"]
    assert any(named in failure for failure in record["failures"]), record["failures"]
    with pytest.raises(attestation.Refused, match="REFUSED"):
        attestation.require(record)


@pytest.mark.parametrize("dead", NAMES)
def test_a_dead_site_is_named_although_the_others_work(dead: str) -> None:
    record = attestation.attest(MatrixProbe(dead=[dead]))
    assert record["seen"] == 3 and not record["passed"]
    assert attestation.problems(record) == [f"every site seen: not seen: {dead}"]


def test_all_sites_dead_is_a_clean_engine_and_is_refused() -> None:
    record = attestation.attest(MatrixProbe(dead=NAMES))
    assert record["seen"] == 0
    failures = " ".join(record["failures"])
    assert "configured noise changes the output" in failures
    assert "every site seen" in failures


def test_an_engine_that_breaks_off_is_refused_and_its_scales_put_back() -> None:
    class Breaking(MatrixProbe):
        def clean(self) -> None:  # type: ignore[override]
            raise RuntimeError("the engine died")

    probe = Breaking()
    record = attestation.attest(probe)
    assert probe.scales == dict.fromkeys(NAMES, 0.05)
    assert not record["passed"] and record["seen"] == 0
    assert "engine answers: RuntimeError: the engine died" in attestation.problems(record)
    assert NAMES[0] in " ".join(attestation.problems(record))


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: record["sites"].pop(),
        lambda record: record["sites"][0].update(max_abs=9.0),
        lambda record: record.update(fingerprint="0" * 16),
        lambda record: record.update(signature="0" * 64),
        lambda record: record.pop("versions"),
    ],
)
def test_an_edited_record_is_no_proof(edit: object) -> None:
    record = json.loads(json.dumps(attestation.attest(MatrixProbe())))
    assert attestation.problems(record, FINGERPRINT) == []
    changed = copy.deepcopy(record)
    edit(changed)  # type: ignore[operator]
    assert attestation.problems(changed, FINGERPRINT)


def test_a_failing_record_does_not_pass_by_signing_it_again() -> None:
    record = attestation.attest(MatrixProbe(dead=[NAMES[1]]))
    record["passed"], record["failures"] = True, []
    record["signature"] = attestation.signature(record)
    assert attestation.problems(record) == [f"not seen: {NAMES[1]}"]


def test_no_record_and_another_specs_record_are_no_proof() -> None:
    assert attestation.problems(None) == ["no attestation was made"]
    assert attestation.problems({}) == ["no attestation was made"]
    record = attestation.attest(MatrixProbe())
    assert "fingerprint" in attestation.problems(record, "f" * 16)[0]


def test_a_specification_that_selects_nothing_is_refused() -> None:
    class Nothing(MatrixProbe):
        def expected(self) -> list[attestation.ProbedSite]:
            return []

    record = attestation.attest(Nothing())
    assert not record["passed"]
    assert any("selects no site" in failure for failure in record["failures"])
