"""Faults that would lose or double the noise of a Hugging Face model, and are refused at once."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn

from hetero_plugin import AQN, AQNConfig, HeteroNoiseConfig, NoiseConfig, state_of, wrap
from hetero_plugin.config import ConfigError
from hetero_plugin.hf.context import MissingRows
from tests.faults.models import IDS, UP, logits, said, tiny
from tests.faults.registry import fault, noticed, refused


class Foreign(nn.Module):
    """A linear layer of another library: computes the same, and is no nn.Linear."""

    def __init__(self, clean: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = clean.weight, clean.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


@fault(
    "the size of the error: it would be there twice",
    "`wrap` on a wrapped model",
    "ConfigError",
    by="error",
    engine="hf",
)
def wrapped_twice() -> str:
    model = wrap(tiny(), "linear")
    return refused(lambda: wrap(model, "linear"), "wrapped already", kind=ConfigError)


@fault(
    "the size of the error: it would be there twice",
    "`from_pretrained` with HeteroNoiseConfig, then `wrap`",
    "ConfigError",
    by="error",
    engine="hf",
)
def quantized_and_wrapped() -> str:
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        tiny().save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=HeteroNoiseConfig(scale=0.05)
        )
    return refused(lambda: wrap(model, "linear"), "wrapped already", kind=ConfigError)


@fault(
    "a layer, by kind: the others would hide it",
    "a layer replaced by another library before `wrap`",
    "ConfigError with the site and the class",
    by="error",
    engine="hf",
)
def unknown_layer_before_wrap() -> str:
    model = tiny()
    model.model.layers[1].mlp.up_proj = Foreign(model.model.layers[1].mlp.up_proj)
    return refused(lambda: wrap(model, "linear"), UP, "Foreign", kind=ConfigError)


@fault(
    "every linear layer",
    "torch's dynamic quantisation before `wrap`",
    "ConfigError: the layers are of a kind that is not known",
    by="error",
    engine="hf",
)
def quantised_before_wrap() -> str:
    model = torch.ao.quantization.quantize_dynamic(tiny(), {nn.Linear}, dtype=torch.qint8)
    return refused(lambda: wrap(model, "all"), "model.layers.0.", kind=ConfigError)


@fault(
    "an unknown fused layer: three sites in one module",
    "q, k and v replaced by one qkv_proj before `wrap`",
    "ConfigError with the three sites",
    by="error",
    engine="hf",
)
def unknown_fused_layer() -> str:
    model = tiny()
    attention = model.model.layers[0].self_attn
    attention.qkv_proj = nn.Linear(64, 128)
    del attention.q_proj, attention.k_proj, attention.v_proj
    return refused(
        lambda: wrap(model, NoiseConfig(scale=0.1, targets=["linear"], exclude=["*.qkv_proj"])),
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        kind=ConfigError,
    )


@fault(
    "AQN at a norm whose formula is not known",
    "a norm class of a kernel library before `wrap`",
    "ConfigError with the class",
    by="error",
    engine="hf",
)
def aqn_on_a_foreign_norm() -> str:
    class FusedRMSNorm(nn.Module):
        def __init__(self, clean: Any) -> None:
            super().__init__()
            self.weight = clean.weight

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.rms_norm(x, self.weight.shape, self.weight)

    model = tiny()
    model.model.norm = FusedRMSNorm(model.model.norm)
    config = AQNConfig(schedule="constant", sigma_start=0.1)
    return refused(lambda: AQN(model, config), "FusedRMSNorm", "model.norm", kind=ConfigError)


@fault(
    "AQN in the weights' own dtype would be another experiment",
    "a schedule whose settings are not all read: `stages` of a constant σ",
    "ConfigError",
    by="error",
    engine="hf",
)
def aqn_setting_without_effect() -> str:
    return refused(
        lambda: AQN(tiny(), {"schedule": "constant", "stages": 5}),
        "stages",
        "does not use it",
        kind=ConfigError,
    )


@fault(
    "rows' identity: stale keys of an earlier batch",
    "another library clears the model's forward hooks",
    "MissingRows at the first layer",
    by="error",
    engine="hf",
)
def hooks_removed() -> str:
    model = wrap(tiny(), "all")
    logits(model)
    for module in model.modules():
        module._forward_pre_hooks.clear()
    return refused(lambda: logits(model, IDS.flip(0)), "forward pass", kind=MissingRows)


@fault(
    "rows' identity",
    "a noisy layer called outside its model",
    "MissingRows",
    by="error",
    engine="hf",
)
def layer_called_alone() -> str:
    model = wrap(tiny(), "all")
    return refused(lambda: model.lm_head(torch.randn(1, 3, 64)), "lm_head", kind=MissingRows)


@fault(
    "tokens' identity: equal positions would have equal error",
    "embeddings in place of token ids",
    "one warning; rows are keyed by position",
    by="warning",
    engine="hf",
)
def embeddings_in_place_of_tokens() -> str:
    model = wrap(tiny(), "linear")
    with said() as lines, torch.no_grad():
        model(inputs_embeds=model.model.embed_tokens(IDS))
    return noticed(any("keyed by position alone" in line for line in lines), " ".join(lines))


@fault(
    "a rule's noise",
    "a rule for training, run without saying which phase it is",
    "ConfigError with the rule",
    by="error",
    engine="hf",
)
def phase_never_set() -> str:
    model = wrap(tiny(), NoiseConfig(preset="all", phase="train"))
    return refused(lambda: logits(model), "rule(s) [0]", "no phase is set", kind=ConfigError)


@fault(
    "new draws: every training step would have the same",
    "a training loop that never sets the noise step, also after resuming at another step",
    "one warning after 16 updates",
    by="warning",
    engine="hf",
)
def resumed_without_a_clock() -> str:
    model = wrap(tiny(), "linear")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with said() as lines:
        for _ in range(18):
            model(IDS[:1, :4], labels=IDS[:1, :4]).loss.backward()
            optimizer.step()
    return noticed(any("set_step(model, step)" in line for line in lines), " ".join(lines))


@fault(
    "almost all of the error",
    "a relative error of 1e-4 rounded to nearest in bfloat16",
    "one warning with the share that is left",
    by="warning",
    engine="hf",
)
def scale_under_half_an_ulp() -> str:
    with said() as lines:
        wrap(tiny(torch.bfloat16), NoiseConfig(scale=1e-4, rounding="nearest"))
    return noticed(any("under half an ulp" in line for line in lines), " ".join(lines))


@fault(
    "the specification of a wrapped model",
    "`update` with a bad specification",
    "ConfigError, and the old noise is still there",
    by="error",
    engine="hf",
)
def update_that_fails() -> str:
    from hetero_plugin import update

    model = wrap(tiny(), "linear")
    noisy = logits(model)
    words = refused(lambda: update(model, {"scale": -1}), "scale: got -1", kind=ConfigError)
    same = torch.equal(logits(model), noisy) and state_of(model).status()["total"] == 15
    return noticed(same, words)
