"""``hetero-noise attest`` with each documented fault in it: refused, and the place named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hetero_plugin import AQN, NoiseConfig, attestation, state_of
from hetero_plugin.attestation.knock_in import knock_in
from hetero_plugin.cli import _run
from hetero_plugin.evaluation import faults
from hetero_plugin.hf.probe import HFProbe
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save
from tests.evaluation.toy import NAMES, MatrixProbe

SITE = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    save(build_model(MiniatureShape(layers=1), 0), build_tokenizer(), path)
    return path


def call(*args: object) -> int:
    with pytest.raises(SystemExit) as left:
        _run("attest", [str(arg) for arg in args])
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("process", "not wrapped"),
        (f"skip:{SITE}", f"every site seen: not seen: {SITE}"),
        (f"stuck:{SITE}", f"every site seen: not seen: {SITE}"),
        (f"leak:{SITE}", "off equals clean"),
        (f"double:{SITE}", f"error once a site: twice: {SITE}"),
        ("one-row", "rows differ: the same error in: model.layers.0"),
        ("one-site", "sites differ: the same error in: model.layers.0"),
    ],
)
def test_each_hook_is_refused_and_named(
    checkpoint: Path, fault: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--model", checkpoint, "--engine", "hf", "--inject", fault, "--brief") == 1
    said = capsys.readouterr().err
    assert "REFUSED:" in said and words in said


def test_every_hook_is_tried_above() -> None:
    marks = test_each_hook_is_refused_and_named.pytestmark  # type: ignore[attr-defined]
    tried = {case[0].partition(":")[0] for case in marks[0].args[1]}
    assert tried == {name for name, hook in faults.HOOKS.items() if "hf" in hook.engines}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("skipp", "Did you mean 'skip'"),
        ("skip", "it should be skip:SITE"),
        ("process:model.norm", "it should be process"),
        ("skip:model.norm", "selects no such site"),
    ],
)
def test_a_wrong_hook_is_a_wrong_setting(
    checkpoint: Path, fault: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--model", checkpoint, "--engine", "hf", "--inject", fault) == 2
    assert words in capsys.readouterr().err


def test_aqn_is_attested_norm_by_norm_and_put_back(checkpoint: Path, tmp_path: Path) -> None:
    spec = '{"preset": "qerl-fp4", "aqn": {"schedule": "constant", "sigma_start": 0.01}}'
    out = tmp_path / "record.json"
    common = ("--model", checkpoint, "--engine", "hf", "--config", spec)
    assert call(*common, "--out", out) == 0
    record = json.loads(out.read_text())
    assert [row["name"] for row in record["aqn"] if row["seen"]] == [
        "model.layers.0.input_layernorm",
        "model.layers.0.post_attention_layernorm",
        "model.norm",
    ]
    assert record["realised"]["linear"]["rms_relative"] == pytest.approx(0.05, rel=0.05)


def test_a_norm_that_aqn_no_longer_reaches_is_named() -> None:
    model = build_model(MiniatureShape(layers=1), 0)
    aqn = AQN(model, {"schedule": "constant", "sigma_start": 0.01})  # type: ignore[arg-type]
    aqn.step(3)
    offsets = state_of(model).aqn
    assert offsets is not None
    before = offsets.offsets.clone()
    record = attestation.attest(HFProbe(model))
    assert record["passed"] and record["dtype"] == "float32"
    assert HFProbe(model, dtype=torch.bfloat16).describe()["dtype"] == "bfloat16"
    assert torch.equal(offsets.offsets, before) and (offsets.sigma, offsets.step) == (0.01, 3)
    clean = type(model.model.norm).hetero_clean_class  # type: ignore[union-attr]
    model.model.norm.__class__ = clean  # a weight sync that puts its own norm there
    record = attestation.attest(HFProbe(model))
    assert attestation.problems(record) == ["every AQN norm seen: not seen: model.norm"]
    record["aqn"][-1]["seen"] = True
    assert "signature" in attestation.problems(record)[1]


def test_groups_take_fewer_passes_and_find_what_is_dead() -> None:
    class Counting(MatrixProbe):
        passes = 0

        def output(self):  # type: ignore[no-untyped-def]
            self.passes += 1
            return super().output()

    each, grouped = Counting(), Counting()
    attestation.attest(each)
    record = attestation.attest(grouped, group=4)
    assert grouped.passes == each.passes - 3
    assert record["passed"] and record["proof"] == "groups of up to 4 sites"
    assert {site["group"] for site in record["sites"]} == {4}
    lost = attestation.attest(Counting(dead=NAMES), group=4)
    assert not lost["passed"] and lost["seen"] == 0
    half = attestation.attest(Counting(dead=NAMES[2:]), group=2)
    assert [site["name"] for site in half["sites"] if not site["seen"]] == list(NAMES[2:])


def test_tens_of_passes_for_the_sites_of_a_7b_model() -> None:
    import numpy as np

    names = [f"site.{i}" for i in range(310)]
    on: list[str] = []
    passes = 0

    def output() -> np.ndarray:
        nonlocal passes
        passes += 1
        return np.array([float(bool(set(on) - {"site.7", *names[100:200]}))])

    def switch(part) -> None:  # type: ignore[no-untyped-def]
        on[:] = part

    rows = knock_in(names, switch, output, np.zeros(1), group=16)
    assert [row["name"] for row in rows] == names and passes < 90
    dead = {row["name"] for row in rows if not row["seen"]}
    assert dead <= set(names[100:200]) and len(dead) > 70


def test_the_swallowed_error_of_a_cast_is_seen(checkpoint: Path) -> None:
    """Wrapped in float32, cast to bfloat16: rounded to nearest, nothing is left of 1e-4."""
    model = build_model(MiniatureShape(layers=1), 0)
    probe = HFProbe.wrapping(model, NoiseConfig(scale=1e-4, rounding="nearest"))
    assert attestation.attest(probe)["passed"]
    model.to(torch.bfloat16)
    record = attestation.attest(HFProbe(model))
    assert "realised error is what was asked" in " ".join(record["failures"])
