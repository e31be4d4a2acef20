"""Every arm of every study: its error is there, in a small model of the miniature's shape.

Verl is started for one arm of each group that shares verl's settings (tests/engines); the error of
the others is attested here, in Hugging Face and eager mode. A second each.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from hetero_plugin.attestation import attest
from hetero_plugin.hf.probe import HFProbe
from hetero_plugin.miniature.model import VOCAB_SIZE, MiniatureShape
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


def small() -> torch.nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = MiniatureShape()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=False,
    )
    return Qwen2ForCausalLM(config).to(torch.bfloat16)


def test_all_studies_are_looked_at() -> None:
    assert len(ARMS) > 60
    assert {name.partition("/")[0] for name in ARMS} >= {"E2", "E8c", "matrix", "dapo-formats"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_an_arms_error_is_there(name: str) -> None:
    noise = ARMS[name].noise
    assert noise is not None
    phases = {rule.phase for rule in noise.rules} or {"train"}
    phase = "train" if phases & {"train", "both"} else "rollout"
    record = attest(HFProbe.wrapping(small(), noise, phase=phase))
    assert record["passed"], [check for check in record["checks"] if not check["passed"]]
    assert record["fingerprint"] == noise.fingerprint and record["sites"]
