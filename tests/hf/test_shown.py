"""`print(model)` of a wrapped model: which layers are noisy, and with what."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
from torch import nn

from hetero_plugin import AQNConfig, NoiseConfig, disabled, phase, state_of, unwrap, wrap
from tests.hf.families import make_family


def line(model: nn.Module, path: str) -> str:
    return repr(model.get_submodule(path)).replace("\n", " ")


def test_a_layer_says_its_error_and_a_clean_one_nothing(make: Callable[..., nn.Module]) -> None:
    model = make()
    before = repr(model)
    wrap(model, NoiseConfig(scale=0.05, targets=["linear"], exclude=["lm_head"], layers=[0]))
    assert line(model, "model.layers.0.self_attn.q_proj") == (
        "NoisyLinear(in_features=64, out_features=64, bias=True, "
        "noise=[relative_gaussian 0.05 (output, both)])"
    )
    clean = {path: module for path, module in model.named_modules() if "layers.0" not in path}
    assert all("noise=" not in repr(m) for m in clean.values() if not list(m.children()))
    unwrap(model)
    assert repr(model) == before


def test_the_scale_is_the_one_in_force(make: Callable[..., nn.Module]) -> None:
    model = wrap(make(), NoiseConfig(scale=0.05, targets=["norm"]))
    state_of(model).set_scale(0.25, site="model.norm")
    assert "relative_gaussian 0.25 (" in line(model, "model.norm")
    with disabled(model):
        assert "relative_gaussian 0 (" in line(model, "model.norm")
    other = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert repr(other) == repr(model)


def test_several_rules_a_phase_and_aqn(make: Callable[..., nn.Module]) -> None:
    bias = {"error": "truncation", "scale": 0.1, "targets": ["norm"], "phase": "train"}
    rules = [{"scale": 0.05, "targets": ["norm"]}, bias]
    aqn = AQNConfig(schedule="constant", sigma_start=0.01)
    model = wrap(make(), NoiseConfig(rules=rules, aqn=aqn))
    both = "relative_gaussian 0.05 (output, both), truncation {} (output, forward), AQN]"
    assert both.format("0.1 in train") in line(model, "model.norm")
    for name, scale in (("train", "0.1"), ("rollout", "0")):
        with phase(model, name):  # type: ignore[arg-type]
            assert both.format(scale) in line(model, "model.norm")


def test_a_module_with_several_sites_names_them() -> None:
    model = wrap(make_family("qwen3_moe"), NoiseConfig(preset="all-ops", scale=0.1))
    assert "noise=[o_proj: relative" in line(model, "model.layers.0.self_attn.o_proj")
    assert "; self_attn: relative" in line(model, "model.layers.0.self_attn.o_proj")
    experts = line(model, "model.layers.1.mlp.experts")
    for leaf in ("gate_up_proj", "act_fn", "down_proj"):
        assert f"{leaf}: relative_gaussian 0.1 (output, both)" in experts


def test_peft_around_a_projection_says_the_attentions_alone(
    make: Callable[..., nn.Module],
) -> None:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(target_modules=["o_proj"], r=2)
    model = wrap(peft.get_peft_model(make(), lora), NoiseConfig(preset="all-ops", scale=0.1))
    wrapper = next(m for p, m in model.named_modules() if p.endswith("0.self_attn.o_proj"))
    assert wrapper.extra_repr().count("relative_gaussian") == 1
    assert wrapper.base_layer.extra_repr().count("relative_gaussian") == 2
