"""Faults of records, results and commands."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from hetero_plugin import NoiseConfig, attestation
from hetero_plugin.config import ConfigError, resolve
from hetero_plugin.evaluation import results
from tests.evaluation.toy import FINGERPRINT, NAMES, MatrixProbe, simulate_run
from tests.faults.registry import fault, noticed, refused


def command(name: str, *args: object) -> tuple[int, str]:
    """Exit status and words of a sub-command, run in this process."""
    from hetero_plugin.cli import _run

    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            _run(name, [str(arg) for arg in args])
        except SystemExit as left:
            code = left.code or 0
    return int(code), err.getvalue()


@fault(
    "the specification that was attested",
    "a file that is changed while the engine runs",
    "the record's fingerprint is not the file's",
    by="attestation",
    engine="core",
)
def config_file_changed_while_running() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spec.yaml"
        path.write_text("scale: 0.05")
        record = attestation.attest(MatrixProbe())
        record["fingerprint"] = NoiseConfig.parse(path).fingerprint
        record["signature"] = attestation.signature(record)
        attestation.require(record, NoiseConfig.parse(path).fingerprint)
        path.write_text("scale: 0.5")
        after = NoiseConfig.parse(path).fingerprint
    return refused(
        lambda: attestation.require(record, after), "fingerprint", kind=attestation.Refused
    )


@fault(
    "the specification that was asked for",
    "a child process without the parent's environment falls to the default preset",
    "the record's fingerprint is not that of the specification asked for",
    by="attestation",
    engine="core",
)
def environment_not_passed_to_a_child() -> str:
    asked = resolve(environ={"HETERO_NOISE_CONFIG": '{"scale": 0.02}'})
    assert asked is not None
    child = resolve(environ={}) or NoiseConfig.parse(None)
    record = attestation.attest(MatrixProbe())
    record["fingerprint"] = child.fingerprint
    record["signature"] = attestation.signature(record)
    return refused(
        lambda: attestation.require(record, asked.fingerprint),
        "fingerprint",
        kind=attestation.Refused,
    )


@fault(
    "what an attestation found",
    "a site's `seen` is edited in a record",
    "the signature no longer fits",
    by="attestation",
    engine="core",
)
def record_edited() -> str:
    record = attestation.attest(MatrixProbe(dead=NAMES[:1]))
    record["sites"][0]["seen"], record["passed"], record["failures"] = True, True, []
    return refused(lambda: attestation.require(record), "signature", kind=attestation.Refused)


@fault(
    "agreement of processes: one rank under another specification",
    "two processes with different fingerprints",
    "refused, with both fingerprints",
    by="attestation",
    engine="core",
)
def one_rank_with_another_specification() -> str:
    record = attestation.attest(MatrixProbe(fault="other process"))
    return refused(
        lambda: attestation.require(record), FINGERPRINT, "f" * 16, kind=attestation.Refused
    )


@fault(
    "another run's results",
    "an evaluation that is told to write over them",
    "ResultError with what differs",
    by="error",
    engine="core",
)
def results_of_another_run() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "eval.json"
        results.write_json(path, results.new({"n": 4, "seed": 0}))
        return refused(
            lambda: results.resume(path, {"n": 4, "seed": 1}),
            "holds another run",
            kind=results.ResultError,
        )


@fault(
    "the proof behind a report",
    "a run one of whose sites was dead",
    "exit status 1, REFUSED and the site",
    by="attestation",
    engine="cli",
)
def report_without_its_proof() -> str:
    with tempfile.TemporaryDirectory() as folder:
        run = simulate_run(Path(folder) / "run", steps=4, dead=[NAMES[0]])
        code, words = command("report", run)
    return noticed(code == 1 and "REFUSED" in words and NAMES[0] in words, words or "exit status 0")


@fault(
    "noise beside another quantisation",
    "`hetero-noise eval` of a checkpoint that is quantised already",
    "exit status 2 and the method's name",
    by="error",
    engine="cli",
)
def quantised_checkpoint() -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = {"model_type": "qwen2", "quantization_config": {"quant_method": "fp8"}}
        (folder / "config.json").write_text(json.dumps(config))
        question = {"question": "1+1?", "answer": "#### 2"}
        (folder / "test.jsonl").write_text(json.dumps(question) + "\n")
        code, words = command(
            *("eval", "--model", folder, "--data", folder / "test.jsonl"),
            *("--out", folder / "eval.json"),
        )
    return noticed(code == 2 and "fp8" in words, words)


@fault(
    "the specification in the environment",
    "`HETERO_NOISE_CONFIG` with text that is no specification",
    "exit status 2 and the variable's name",
    by="error",
    engine="cli",
)
def rubbish_in_the_environment() -> str:
    os.environ["HETERO_NOISE_CONFIG"] = "0.05"
    try:
        return refused(resolve, "HETERO_NOISE_CONFIG", "'0.05'", kind=ConfigError)
    finally:
        del os.environ["HETERO_NOISE_CONFIG"]
