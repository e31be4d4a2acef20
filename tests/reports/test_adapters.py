"""PEFT as its users use it: whatever they hold, in whatever order, has the noise that was asked."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from peft import LNTuningConfig, LoraConfig, get_peft_model
from torch import nn

from hetero_plugin import (
    AQN,
    AQNConfig,
    ConfigError,
    NoiseConfig,
    disabled,
    set_step,
    state_of,
    unwrap,
    update,
    wrap,
)
from tests.hf.conftest import tiny

SPEC = NoiseConfig(scale=0.1, targets=["linear", "lm_head", "attention", "norm"])
IDS = torch.randint(1, 272, (2, 9), generator=torch.Generator().manual_seed(1))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def lora(model: Any, **changes: Any) -> Any:
    torch.manual_seed(2)
    settings: Any = dict(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    return get_peft_model(model, LoraConfig(**(settings | changes))).eval()


@pytest.mark.parametrize("way", ["merge_and_unload", "unload", "get_base_model"])
def test_what_peft_gives_back_is_the_wrapped_model(way: str) -> None:
    model = wrap(lora(tiny()), SPEC)
    left = getattr(model, way)()
    assert state_of(left) is state_of(left.model.layers[0]) is state_of(left.lm_head)
    before = logits(left)
    set_step(left, 5)
    assert not torch.equal(logits(left), before)
    set_step(left, 0)
    with pytest.raises(ConfigError, match=r"wrapped already, with the PeftModel.* that wrap got"):
        wrap(left, SPEC)
    aqn = AQN(left, AQNConfig(schedule="constant", sigma_start=0.1))
    aqn.step(1)
    assert not torch.equal(logits(left), before)
    aqn.off()
    update(left.model, SPEC)  # a part: the head keeps its error
    assert torch.equal(logits(left), before)
    clean = getattr(lora(tiny()), way)()
    assert torch.equal(logits(unwrap(left)), logits(clean))
    assert torch.equal(logits(wrap(left, SPEC)), before)


@pytest.mark.parametrize("first", ["wrap", "peft"])
def test_a_head_that_is_trained_whole_is_noisy_with_adapters_and_without(first: str) -> None:
    """Both copies, under one name; and what is generated has the error too."""
    saved = {"modules_to_save": ["lm_head"]}
    model = lora(wrap(tiny(), SPEC), **saved) if first == "wrap" else wrap(lora(tiny(), **saved))
    update(model, SPEC)
    plain = wrap(tiny(), SPEC)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(plain))
    assert [c.site.name for c in state_of(model).selected].count("lm_head") == 1
    noisy = model.generate(input_ids=IDS, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert noisy.shape[1] == IDS.shape[1] + 4
    model.lm_head.modules_to_save["default"].weight.data.mul_(-1)
    assert not torch.allclose(logits(model), logits(plain))


def test_several_adapters_with_a_head_each() -> None:
    model = lora(tiny(), modules_to_save=["lm_head"])
    model.add_adapter("b", LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    wrap(model, NoiseConfig(scale=0.1, targets="lm_head"))
    for name in ("default", "b"):
        model.set_adapter(name)
        noisy = logits(model)
        with disabled(model):
            assert not torch.equal(noisy, logits(model)), name


def test_norms_that_peft_copies_keep_their_name() -> None:
    spec = NoiseConfig(scale=0.1, targets="norm")
    tuned = LNTuningConfig(target_modules=["norm", "input_layernorm"])
    first = get_peft_model(wrap(tiny(), spec), tuned).eval()
    last = wrap(get_peft_model(tiny(), tuned).eval(), spec)
    assert torch.equal(logits(first), logits(wrap(tiny(), spec)))
    assert torch.equal(logits(last), logits(first))
    with first.disable_adapter(), last.disable_adapter():
        assert torch.equal(logits(last), logits(first))


@pytest.mark.slow
def test_compiled_after_an_adapter_on_the_output_projection() -> None:
    model = lora(wrap(tiny(num_hidden_layers=1), SPEC))
    compiled = torch.compile(model, backend="aot_eager")
    wanted = logits(wrap(lora(tiny(num_hidden_layers=1)), SPEC))
    torch.testing.assert_close(logits(compiled), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [300, 256])
@pytest.mark.parametrize("tied", [False, True])
def test_a_resized_vocabulary(size: int, tied: bool) -> None:
    """The new head has the error of the outputs' addresses, as if it had been so from the start."""

    def resized(model: Any) -> Any:
        torch.manual_seed(3)
        model.resize_token_embeddings(size, mean_resizing=False)
        return model

    ids = IDS % 250
    model = wrap(tiny(tie_word_embeddings=tied), SPEC)
    logits(model)
    resized(model)
    wanted = wrap(resized(tiny(tie_word_embeddings=tied)), SPEC)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, wanted(ids).logits)
        clean = resized(tiny(tie_word_embeddings=tied))
        assert torch.equal(unwrap(model)(ids).logits, clean(ids).logits)


def test_a_reference_without_adapters_is_said_to_be_noisy(caplog: Any) -> None:
    """DPO computes its reference so: once a model, and not where it is clean."""
    caplog.set_level(logging.WARNING, logger="hetero_noise")
    model = lora(wrap(tiny(), SPEC))
    logits(model)
    with disabled(model), model.disable_adapter():
        logits(model)
    assert not caplog.records
    for _ in range(2):
        with model.disable_adapter():
            logits(model)
    (one,) = caplog.records
    assert "adapters switched off" in one.message and "disabled(model)" in one.message


def test_two_wrapped_models_in_one_are_not_mixed_up() -> None:
    both = nn.ModuleList([wrap(tiny(), SPEC), wrap(tiny(), SPEC)])
    with pytest.raises(ConfigError, match="holds 2 wrapped models"):
        state_of(both)
