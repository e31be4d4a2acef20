"""Adapters of the real PEFT: the spec is about the base, the adapters or both; saved ones clean."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from hetero_plugin import AQN, AQNConfig, ConfigError, NoiseConfig
from hetero_plugin.hf import disabled, state_of, unwrap, update, wrap
from tests.hf.families import make_family, tokens

SPEC = NoiseConfig(scale=0.1, targets=["linear"])


def lora(model: Any = None, **changes: Any) -> Any:
    model = model or make_family("qwen2")
    torch.manual_seed(2)
    settings = dict(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False) | changes
    return get_peft_model(model, LoraConfig(**settings)).eval()  # type: ignore[arg-type]


def step(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    out = model(tokens(), labels=tokens())
    out.loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": out.logits.detach(), **found}


def noisy_names(model: Any) -> set[str]:
    return {chosen.site.name for chosen in state_of(model).selected}


@pytest.mark.parametrize("before", [True, False], ids=["wrapped-first", "peft-first"])
def test_the_base_is_noisy_and_adapters_stay_clean(before: bool, caplog: Any) -> None:
    caplog.set_level(logging.INFO, logger="hetero_noise")
    clean = step(lora())
    model = lora(wrap(make_family("qwen2"), SPEC)) if before else wrap(lora(), SPEC)
    told = [r.message for r in caplog.records if "adapter layers stay clean" in r.message]
    assert len(told) == (0 if before else 1)
    if told:
        assert "8 adapter layers stay clean (lora_A, lora_B)" in told[0]
    assert noisy_names(model) == noisy_names(wrap(make_family("qwen2"), SPEC))
    noisy = step(model)
    assert set(noisy) == set(clean) and not torch.equal(noisy["logits"], clean["logits"])
    assert all(("lora_" in name) or name == "logits" for name in clean), "the base is frozen"
    with disabled(model):
        off = step(model)
    assert all(torch.equal(off[name], clean[name]) for name in clean)


def test_adapters_alone_and_both() -> None:
    """Each choice has the sites that it says, and each is what the others add up from."""
    only, both, base = (wrap(lora(), SPEC, adapters=a) for a in ("adapter", "both", "base"))
    adapters = {
        f"model.layers.{i}.{leaf}.lora_{m}.default"
        for i in range(2)
        for leaf in ("self_attn.q_proj", "mlp.down_proj")
        for m in "AB"
    }
    assert noisy_names(only) == adapters
    assert noisy_names(both) == adapters | noisy_names(base)
    seen = [step(model)["logits"] for model in (only, both, base, lora())]
    for i, one in enumerate(seen):
        assert not any(torch.equal(one, other) for other in seen[:i])
    state_of(both).set_scale(0.0)
    for name in adapters:
        state_of(both).set_scale(0.1, site=name)
    assert torch.equal(step(both)["logits"], seen[0])
    update(both, SPEC, adapters="base")
    assert torch.equal(step(both)["logits"], seen[2])
    unwrap(both)
    assert torch.equal(step(both)["logits"], seen[3])


def test_adapters_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no adapter with linear layers"):
        wrap(make_family("qwen2"), SPEC, adapters="both")
    with pytest.raises(ConfigError, match="matches none"):
        wrap(lora(), NoiseConfig(scale=0.1, targets="norm"), adapters="adapter")


def test_an_adapter_reads_the_attention_that_its_base_layer_reads() -> None:
    """Error on softmax·V comes once, before both; and it stays when the adapter is taken off."""
    spec = NoiseConfig(scale=0.1, targets="attention")
    model, clean = lora(target_modules=["o_proj"]), lora(target_modules=["o_proj"])
    wrap(model, spec)
    block = model.base_model.model.model.layers[0].self_attn
    seen: dict[str, torch.Tensor] = {}
    for name, module in (("attention", block.o_proj), ("adapter", block.o_proj.lora_A["default"])):
        module.register_forward_pre_hook(
            lambda m, a, name=name: seen.update({name: a[0].detach().clone()})
        )
    base = block.o_proj.base_layer
    base.register_forward_hook(lambda m, a, y: seen.update(y=y.detach().clone()))
    noisy = step(model)
    assert not torch.equal(seen["adapter"], seen["attention"]), "the adapter sees the error"
    assert torch.equal(torch.nn.functional.linear(seen["adapter"], base.weight), seen["y"])
    with disabled(model):
        off = step(model)
    wanted = step(clean)
    assert all(torch.equal(off[name], wanted[name]) for name in wanted)
    assert not torch.equal(noisy["logits"], wanted["logits"])
    with torch.no_grad(), model.disable_adapter():
        bare = model(tokens()).logits
    plain = wrap(make_family("qwen2"), spec)
    assert torch.equal(bare, step_logits(plain))
    left = model.unload()
    assert torch.equal(step_logits(left), bare), "the error stays with the base layer"
    unwrap(model)  # where it was wrapped
    assert not torch.equal(step_logits(left), bare)


def test_a_layer_that_peft_trains_whole_is_the_site() -> None:
    """modules_to_save: the copy that runs has the error, not the original beside it."""
    model = wrap(lora(modules_to_save=["lm_head"]), NoiseConfig(scale=0.2, targets="lm_head"))
    assert noisy_names(model) == {"lm_head"}
    with torch.no_grad():
        noisy = model(tokens()).logits
        with disabled(model):
            clean = model(tokens()).logits
    assert not torch.equal(noisy, clean)


def test_what_is_saved_and_merged_is_clean(tmp_path: Path) -> None:
    clean = lora()
    clean.save_pretrained(tmp_path / "clean")
    model = lora()
    aqn = AQN(
        wrap(model, SPEC, adapters="both"),
        AQNConfig(schedule="constant", sigma_start=0.1, total_steps=3),
    )
    aqn.step(1)
    step(model)
    model.save_pretrained(tmp_path / "noisy")
    name = "adapter_model.safetensors"
    assert (tmp_path / "noisy" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()
    again = PeftModel.from_pretrained(make_family("qwen2"), tmp_path / "noisy").eval()
    assert torch.equal(step_logits(again), step_logits(clean))
    merged, wanted = unwrap(model).merge_and_unload(), clean.merge_and_unload()
    assert torch.equal(step_logits(merged), step_logits(wanted))


def step_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens()).logits


def test_an_aqn_whose_spec_is_gone_says_so() -> None:
    model = make_family("qwen2")
    config = AQNConfig(schedule="constant", sigma_start=0.1, total_steps=3)
    old = AQN(model, config)
    assert old.step(1) > 0
    new = AQN(model, config.model_copy(update={"sigma_start": 0.2}))
    with pytest.raises(ConfigError, match="no longer in force"):
        old.step(1)
    old.off()
    assert new.step(1) == pytest.approx(0.2)
    unwrap(model)
    with pytest.raises(ConfigError, match="no longer in force"):
        new.step(2)
    new.off()


def test_update_keeps_what_the_loop_has_said() -> None:
    model = wrap(make_family("qwen2"), NoiseConfig(preset="linear", phase="train"))
    state_of(model).set_phase("train")
    state_of(model).set_step(7)
    update(model, NoiseConfig(preset="rmsnorm", phase="train"))
    state = state_of(model)
    assert (state.step, state.phase, state.enabled) == (7, "train", True)
    with disabled(model):
        update(model, "linear")
        assert not state_of(model).enabled
    assert state_of(model).enabled, "not clean for ever"
    with pytest.raises(ConfigError, match="no spec"):
        update(model, None)
    with pytest.raises(ConfigError):
        update(model, {"scale": -1})
    assert state_of(model).step == 7
