"""from_pretrained with a quantization config: noisy when loaded, clean when saved."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from hetero_plugin import ConfigError, HeteroNoiseConfig
from hetero_plugin.hf import disabled, state_of, wrap


@pytest.fixture
def saved(make, tmp_path):
    make().save_pretrained(tmp_path / "clean")
    return tmp_path / "clean"


def test_from_pretrained_wraps(make, ids, saved, tmp_path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        saved, quantization_config=HeteroNoiseConfig(scale=0.03, targets=["linear"])
    ).eval()
    wanted = wrap(make(), {"scale": 0.03, "targets": ["linear"]})
    assert torch.equal(model(ids).logits, wanted(ids).logits)
    assert state_of(model).status()["sites"] == {"linear": 14, "lm_head": 1}
    with disabled(model):
        assert torch.equal(model(ids).logits, make()(ids).logits)
    model.save_pretrained(tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again/config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(again(ids).logits, make()(ids).logits)


def test_a_checkpoint_can_name_it(make, ids, saved) -> None:
    path = saved / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = {"quant_method": "hetero_noise", "preset": "mlp", "seed": 3}
    path.write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(saved).eval()
    assert state_of(model).status()["sites"] == {"linear": 2, "norm": 5}
    assert torch.equal(model(ids).logits, wrap(make(), {"preset": "mlp", "seed": 3})(ids).logits)


def test_a_bad_spec_is_refused() -> None:
    with pytest.raises(ConfigError, match="sclae"):
        HeteroNoiseConfig(sclae=0.1)
