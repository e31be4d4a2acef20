"""Every arm of every study: its error is there, in a small model of the miniature's shape.

Verl is started for one arm of each group that shares verl's settings (tests/engines); the error of
the others is attested here, in Hugging Face and eager mode. A second each;
four where a study names layers, and so has a deep model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from hetero_plugin.attestation import attest
from hetero_plugin.hf.probe import HFProbe
from hetero_plugin.miniature.model import MiniatureShape, build_model
from hetero_plugin.study.read import read, studies
from hetero_plugin.study.resolve import Resolved, resolve

FOLDER = Path(__file__).parents[2] / "recipes" / "studies"


def unlike() -> dict[str, Resolved]:
    """One arm for each specification, as it is where a study runs on CPU cores."""
    found: dict[str, Resolved] = {}
    for path in studies(FOLDER):
        study = read(path)
        where = "cpu-miniature" if "cpu-miniature" in study.places else study.where
        for arm in study.arms:
            run = resolve(study, arm, 0, where)
            if run.noise is not None:
                found.setdefault(run.noise.fingerprint, run)
    return found


ARMS = {f"{run.study.name}/{run.arm}": run for run in unlike().values()}


def small(options: Mapping[str, Any]) -> torch.nn.Module:
    """A model of the shape that the place's preparation is asked for, with random weights."""
    fields = MiniatureShape.model_fields
    shape = MiniatureShape(**{key: value for key, value in options.items() if key in fields})
    return build_model(shape, 0).to(torch.bfloat16)


def test_all_studies_are_looked_at() -> None:
    assert len(ARMS) > 60
    assert {name.partition("/")[0] for name in ARMS} >= {"E2", "E8c", "matrix", "dapo-formats"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_an_arms_error_is_there(name: str) -> None:
    noise, made = ARMS[name].noise, ARMS[name].place.prepare
    assert noise is not None and made is not None
    phases = {rule.phase for rule in noise.rules} or {"train"}
    phase = "train" if phases & {"train", "both"} else "rollout"
    record = attest(HFProbe.wrapping(small(made.options), noise, phase=phase))
    assert record["passed"], [check for check in record["checks"] if not check["passed"]]
    assert record["fingerprint"] == noise.fingerprint
    assert record["sites"] if noise.rules else record["aqn"]
