"""Faults of adapters and of other libraries' classes, where noise would go or be another."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

from hetero_plugin import AQN, AQNConfig, NoiseConfig, state_of, unwrap, update, wrap
from hetero_plugin.config import ConfigError
from tests.faults.models import logits, said, tiny
from tests.faults.registry import fault, noticed, refused

SPEC = NoiseConfig(scale=0.1, targets=["linear", "lm_head", "attention", "norm"])


def _lora(model: Any, **changes: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    settings: Any = dict(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    return get_peft_model(model, LoraConfig(**(settings | changes))).eval()


@fault(
    "the noise of a copied block, and its rows",
    "PEFT's `modules_to_save` of `mlp` on a wrapped base",
    "the copy has the error of the layer's name",
    by="values",
    engine="hf",
)
def a_block_that_peft_copies() -> str:
    first = logits(_lora(wrap(tiny(), SPEC), modules_to_save=["mlp"]))
    last = logits(wrap(_lora(tiny(), modules_to_save=["mlp"]), SPEC))
    return noticed(torch.equal(first, last), "the same noise, whoever came first")


@fault(
    "the noise of the second adapter's own head",
    "two adapters with `modules_to_save` before `wrap`, the first active",
    "each copy has the error",
    by="values",
    engine="hf",
)
def the_other_adapters_head() -> str:
    from peft import LoraConfig

    model = _lora(tiny(), modules_to_save=["lm_head"])
    model.add_adapter("b", LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    clean = copy.deepcopy(model)
    wrap(model, NoiseConfig(scale=0.1, targets="lm_head"))
    for name in ("b", "default"):
        model.set_adapter(name)
        clean.set_adapter(name)
        noticed(not torch.equal(logits(model), logits(clean)), f"{name} is noisy")
    return "both heads are noisy"


@fault(
    "part of a model that is made clean or given another spec",
    "`update` and AQN by a layer of a merged model",
    "all of it changes: the state is found from any layer",
    by="values",
    engine="hf",
)
def updated_by_a_layer() -> str:
    model = wrap(_lora(tiny()), SPEC).merge_and_unload()
    noisy = logits(model)
    update(model.model.layers[1].mlp, SPEC)
    noticed(torch.equal(logits(model), noisy), "the head and the other layers stay noisy")
    AQN(model.lm_head, AQNConfig(schedule="constant", sigma_start=0.1)).step(1)
    return noticed(not torch.equal(logits(model), noisy), "AQN is on every norm")


@fault(
    "the attention's error on what an adapter reads",
    "an adapter added to `o_proj` by `model.add_adapter` after a forward pass under noise",
    "the adapter reads the noisy attention from the next pass on",
    by="values",
    engine="hf",
)
def an_output_projection_adapted_late() -> str:
    from peft import LoraConfig

    def inject(model: Any) -> Any:
        torch.manual_seed(2)
        model.add_adapter(LoraConfig(r=4, target_modules=["o_proj"], init_lora_weights=False))
        return model.eval()

    spec = NoiseConfig(scale=0.1, targets="attention")
    late = wrap(tiny(), spec)
    logits(late)
    same = torch.equal(logits(inject(late)), logits(wrap(inject(tiny()), spec)))
    return noticed(same, "the same noise, whoever came first")


@fault(
    "a clean reference policy",
    "a pass under TRL's frozen adapter `ref`",
    "one warning",
    by="warning",
    engine="hf",
)
def reference_by_a_frozen_adapter() -> str:
    from peft import LoraConfig

    model = wrap(_lora(tiny()), SPEC)
    model.add_adapter("ref", LoraConfig(r=2, target_modules=["q_proj"]))
    model.set_adapter("ref")
    with said() as lines:
        logits(model)
    return noticed(any("that policy is noisy" in line for line in lines), " ".join(lines))


@fault(
    "which of two models is meant",
    "the step set on a container of two wrapped models",
    "ConfigError",
    by="error",
    engine="hf",
)
def two_models_in_one() -> str:
    both = nn.ModuleDict({"actor": wrap(tiny(), SPEC), "critic": wrap(tiny(), SPEC)})
    return refused(lambda: state_of(both).set_step(3), "holds 2 wrapped models", kind=ConfigError)


@fault(
    "another library's class, and with it the layer's weight",
    "`orthogonal` on a noisy projection, then `update` and `unwrap`",
    "its class stays, and can be taken off by its own function",
    by="values",
    engine="hf",
)
def an_orthogonal_projection_updated() -> str:
    model = wrap(tiny(), SPEC)
    parametrizations.orthogonal(model.model.layers[0].self_attn.q_proj)
    noisy = logits(model)
    update(model, SPEC)
    noticed(torch.equal(logits(model), noisy), "the noise is the same")
    unwrap(model)
    proj = model.model.layers[0].self_attn.q_proj
    torch.nn.utils.parametrize.remove_parametrizations(proj, "weight")
    return noticed(type(proj) is nn.Linear, "its own function takes it off")


@fault(
    "another library's class, silently",
    "a class that calls the noisy norm's forward put on it, then `unwrap`",
    "ConfigError with the site, and nothing is changed",
    by="error",
    engine="hf",
)
def a_class_on_top_of_a_noisy_norm() -> str:
    model = wrap(tiny(), SPEC)
    norm = model.model.norm

    class Scaled(type(norm)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 3 * super().forward(x)

    norm.__class__ = Scaled
    noisy = logits(model)
    words = refused(lambda: unwrap(model), "model.norm", "Scaled", kind=ConfigError)
    return noticed(torch.equal(logits(model), noisy) and type(norm) is Scaled, words)


@fault(
    "the error of the outputs that a vocabulary gains",
    "`resize_token_embeddings` with padding on a wrapped model with tied weights",
    "the new head has the error of its outputs' addresses",
    by="values",
    engine="hf",
)
def a_vocabulary_padded() -> str:
    def padded(model: Any) -> Any:
        torch.manual_seed(3)
        model.resize_token_embeddings(290, pad_to_multiple_of=64, mean_resizing=False)
        return model

    late = padded(wrap(tiny(tie_word_embeddings=True), SPEC))
    same = torch.equal(logits(late), logits(wrap(padded(tiny(tie_word_embeddings=True)), SPEC)))
    return noticed(same, "the same noise, whoever came first")
