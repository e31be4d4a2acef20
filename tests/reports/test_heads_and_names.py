"""One decoder, one noise: whatever class, head or wrapper is on top of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from hetero_plugin import NoiseConfig, state_of, wrap
from hetero_plugin.config import ConfigError
from hetero_plugin.hf.context import MissingRows
from tests.hf.families import FAMILY, family_config, make_family, tokens

SPEC = NoiseConfig(scale=0.1, targets=["linear", "norm", "activation"], exclude=["lm_head"])
IDS = tokens(2, 7)
HEADED = {
    "score": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "qa_outputs": AutoModelForQuestionAnswering,
}


class ValueHead(nn.Module):
    """As TRL's: a language model, and a value for each token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.pretrained_model = model
        self.v_head = nn.ModuleDict({"summary": nn.Linear(32, 1)})

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        out = self.pretrained_model(ids, output_hidden_states=True)
        return out.logits, self.v_head["summary"](out.hidden_states[-1])


@torch.no_grad()
def hidden(model: Any) -> Tensor:
    return model(IDS).last_hidden_state


def around(decoder: Any, how: str) -> Any:
    """A model with this decoder inside."""
    if how == "alone":
        return decoder
    torch.manual_seed(1)
    if how == "lm":
        model = make_family("qwen2")
        model.model = decoder
        return model
    if how == "value":
        return ValueHead(around(decoder, "lm"))
    model = HEADED[how].from_config(family_config("qwen2", num_labels=3, pad_token_id=0)).eval()
    setattr(model, model.base_model_prefix, decoder)
    return model


@pytest.mark.parametrize("spec", [SPEC, None, "rmsnorm", "mlp"])
@pytest.mark.parametrize("how", ["lm", "value", *HEADED])
def test_the_same_decoder_has_the_same_noise(how: str, spec: Any) -> None:
    decoder = make_family("qwen2").model
    wanted = hidden(wrap(copy.deepcopy(decoder), spec, quiet=True))
    assert not torch.equal(wanted, hidden(decoder))
    model = around(copy.deepcopy(decoder), how)
    wrap(model, spec, quiet=True)
    found: list[Tensor] = []
    norm = next(m for n, m in model.named_modules() if n.endswith("norm") and "layers" not in n)
    norm.register_forward_hook(lambda m, a, out: found.append(out.detach()))
    model(IDS)
    assert torch.equal(found[0], wanted)
    names = {chosen.site.name for chosen in state_of(model).selected}
    assert all(name.startswith("model.") for name in names)


@pytest.mark.parametrize("family", sorted(FAMILY))
def test_the_default_needs_no_lm_head(family: str) -> None:
    model = AutoModel.from_config(family_config(family)).eval()
    clean = hidden(model)
    assert (hidden(wrap(model, quiet=True)) - clean).abs().max() > 0.01


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("score", "score"),
        ("token", "score"),
        ("qa_outputs", "qa_outputs"),
        ("value", "v_head.summary"),
    ],
)
def test_heads_are_sites_of_the_kind_lm_head(how: str, name: str) -> None:
    model = around(make_family("qwen2").model, how).eval()
    with torch.no_grad():
        clean = model(IDS)
    wrap(model, "linear", quiet=True)
    kinds = {chosen.site.name: chosen.site.kind for chosen in state_of(model).selected}
    assert kinds[name] == "lm_head"
    model = around(make_family("qwen2").model, how).eval()
    wrap(model, NoiseConfig(scale=0.1, targets=[name]), quiet=True)
    with torch.no_grad():
        noisy = model(IDS)
    first = clean[1] if how == "value" else clean[0]
    second = noisy[1] if how == "value" else noisy[0]
    assert not torch.equal(first, second)


def test_a_pooled_head_is_refused() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = make_family("qwen2").model
            self.value = nn.Linear(32, 1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.value(self.model(ids).last_hidden_state[:, -1])

    wrap(Pooled(), SPEC, quiet=True)(IDS)  # the head is clean, by the spec
    with pytest.raises(MissingRows, match="value got 2 rows"):
        wrap(Pooled(), "linear", quiet=True)(IDS)


class Foreign(nn.Module):
    """A linear layer of another library."""

    def __init__(self, clean: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = clean.weight, clean.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


@pytest.mark.parametrize("how", ["alone", "lm", "value", *HEADED])
def test_foreign_layers_are_found_under_any_head(how: str) -> None:
    model = around(make_family("qwen2").model, how)
    for module in list(model.modules()):
        if hasattr(module, "up_proj"):
            module.up_proj = Foreign(module.up_proj)
    with pytest.raises(ConfigError, match=r"mlp\.up_proj \(Foreign\)"):
        wrap(model, SPEC, quiet=True)


def test_a_misspelled_exclusion_is_still_an_error() -> None:
    model = make_family("qwen2").model
    for words in ("score", "lm_haed", "*.lm_head"):
        with pytest.raises(ConfigError, match="matches none"):
            wrap(model, NoiseConfig(scale=0.1, targets="linear", exclude=words), quiet=True)
    with pytest.raises(ConfigError, match="matches none"):
        wrap(model, NoiseConfig(scale=0.1, targets="lm_head"), quiet=True)


def test_peft_around_any_of_them() -> None:
    from peft import LoraConfig, get_peft_model

    wanted = hidden(wrap(make_family("qwen2").model, SPEC, quiet=True))
    for task in (None, "CAUSAL_LM", "FEATURE_EXTRACTION"):
        inner = make_family("qwen2") if task == "CAUSAL_LM" else make_family("qwen2").model
        peft = get_peft_model(inner, LoraConfig(task_type=task, target_modules=["q_proj"]))
        wrap(peft, SPEC, quiet=True)
        found: list[Tensor] = []
        for name, module in peft.named_modules():
            if name.endswith("model.norm") or name.endswith("base_model.model.norm"):
                module.register_forward_hook(lambda m, a, out, f=found: f.append(out.detach()))
        peft(input_ids=IDS)
        assert torch.equal(found[0], wanted)


def test_tracing_is_refused_and_export_is_right() -> None:
    model = wrap(make_family("qwen2"), SPEC, quiet=True)
    model.config.use_cache = False
    with pytest.raises(ConfigError, match=r"jit\.trace"):
        torch.jit.trace(model, (IDS,), check_trace=False, strict=False)
    with pytest.raises(ConfigError, match="vmap"):
        torch.vmap(lambda ids: model(ids[None]).logits, randomness="different")(IDS)
    with torch.no_grad():
        wanted = model(IDS).logits
        program = torch.export.export(model, (IDS,), strict=False).module()
        torch.testing.assert_close(program(IDS).logits, wanted, rtol=0, atol=1e-5)
        state_of(model).set_step(3)
        torch.testing.assert_close(program(IDS).logits, model(IDS).logits, rtol=0, atol=1e-5)
    assert not torch.equal(model(IDS).logits, wanted)
