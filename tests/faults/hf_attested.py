"""Faults that a wrapped Hugging Face model runs with, and its attestation refuses."""

from __future__ import annotations

import torch
from torch import nn

from hetero_plugin import AQN, NoiseConfig
from hetero_plugin.evaluation import faults
from hetero_plugin.hf import held, wrap
from hetero_plugin.hf.probe import HFProbe
from tests.faults.models import UP, attested, tiny
from tests.faults.registry import fault


def hooked(name: str, *words: str, site: str | None = UP, compiled: bool = False) -> str:
    """The words of an attestation with one of the documented faults in the model."""
    probe = HFProbe.wrapping(tiny(), "all")
    if compiled:
        torch._dynamo.reset()
        # The graph and its inputs are what Inductor's would be; only the code is not generated.
        graph = torch.compile(probe.model, backend="aot_eager")
        probe = HFProbe(probe.model, forward=graph)
    faults.inject(name, probe.model, site)
    return attested(probe, *words)


@fault(
    "all noise: enabled here, absent where the answers come from",
    "`--inject process`: the model that is run was never wrapped",
    "refused: the engine can't be asked",
    by="attestation",
    engine="hf",
)
def engine_without_the_plugin() -> str:
    return hooked("process", "not wrapped", site=None)


@fault(
    "one site",
    "`--inject skip`: a fused kernel computes past the noisy layer",
    "refused, with the site",
    by="attestation",
    engine="hf",
)
def site_skipped_by_a_fused_kernel() -> str:
    return hooked("skip", f"not seen: {UP}")


@fault(
    "one site",
    "another library assigns `layer.forward`",
    "refused, with the site",
    by="attestation",
    engine="hf",
)
def forward_assigned_by_another_library() -> str:
    probe = HFProbe.wrapping(tiny(), "all")
    layer = probe.model.model.layers[1].mlp.up_proj
    weight = layer.weight
    layer.forward = lambda x: nn.functional.linear(x, weight)
    return attested(probe, f"not seen: {UP}")


@fault(
    "one site",
    "another library puts its own layer in a wrapped one's place",
    "refused, with the site",
    by="attestation",
    engine="hf",
)
def module_replaced_after_wrap() -> str:
    probe = HFProbe.wrapping(tiny(), "all")
    mlp = probe.model.model.layers[1].mlp
    fresh = nn.Linear(64, 160, bias=False)
    fresh.weight = mlp.up_proj.weight
    mlp.up_proj = fresh
    return attested(probe, f"not seen: {UP}")


@fault(
    "the weights that were attested",
    "a weight sync that assigns a new head with new weights",
    "refused: off is no longer the clean output (the new head has the noise)",
    by="attestation",
    engine="hf",
)
def weight_sync_replaces_a_module() -> str:
    probe = HFProbe.wrapping(tiny(), "all")
    probe.model.lm_head = nn.Linear(64, 272, bias=False)
    return attested(probe, "off equals clean")


@fault(
    "AQN at one norm",
    "a weight sync that puts a clean norm in a noisy one's place",
    "refused, with the norm",
    by="attestation",
    engine="hf",
)
def norm_replaced_under_aqn() -> str:
    model = tiny()
    AQN(model, {"schedule": "constant", "sigma_start": 0.01}).step(0)
    fresh = type(model.model.norm).hetero_clean_class(64)
    fresh.weight = model.model.norm.weight
    model.model.norm = fresh
    return attested(HFProbe(model), "AQN norm", "model.norm")


@fault(
    "one site's scale",
    "`--inject stuck`: a captured graph reads an old scale table",
    "refused, with the site",
    by="attestation",
    engine="hf",
)
def old_scale_table() -> str:
    return hooked("stuck", f"not seen: {UP}")


@fault(
    "one site's scale",
    "`--inject stuck` under torch.compile",
    "refused, with the site",
    by="attestation",
    engine="hf compiled",
)
def old_scale_table_in_compiled_code() -> str:
    return hooked("stuck", f"not seen: {UP}", compiled=True)


@fault(
    "the clean reference: noise left on in validation",
    "`--inject leak`: a site ignores being switched off",
    "refused: off is not the clean output",
    by="attestation",
    engine="hf",
)
def noise_left_on() -> str:
    return hooked("leak", "off equals clean")


@fault(
    "the size of the error",
    "`--inject double`: a hook adds a site's error again",
    "refused, with the site",
    by="attestation",
    engine="hf",
)
def error_added_twice() -> str:
    return hooked("double", f"twice: {UP}")


@fault(
    "independence of tokens",
    "`--inject one-row`: row keys missing, all rows alike",
    "refused, with the sites",
    by="attestation",
    engine="hf",
)
def all_rows_alike() -> str:
    return hooked("one-row", "rows differ", "rows are known", site=None)


@fault(
    "independence of layers",
    "`--inject one-site`: the same key for all layers",
    "refused, with pairs of sites",
    by="attestation",
    engine="hf",
)
def same_key_for_all_layers() -> str:
    return hooked("one-site", "sites differ", site=None)


@fault(
    "a phase's noise",
    "a specification for rollout, attested in training",
    "refused: it selects no site here",
    by="attestation",
    engine="hf",
)
def rules_of_another_phase() -> str:
    probe = HFProbe.wrapping(tiny(), {"preset": "all", "phase": "rollout"})
    return attested(probe, "selects no site")


@fault(
    "the error, swallowed by rounding",
    "wrapped in float32, cast to bfloat16, scale 1e-4 to nearest",
    "refused: realised error is not what was asked",
    by="attestation",
    engine="hf",
)
def dtype_changed_after_wrap() -> str:
    model = tiny()
    HFProbe.wrapping(model, NoiseConfig(scale=1e-4, rounding="nearest"))
    model.to(torch.bfloat16)
    return attested(HFProbe(model), "realised error is what was asked: model.layers.0")


@fault(
    "garbage would pass for noise",
    "a NaN weight in a wrapped model",
    "refused: output is not finite",
    by="attestation",
    engine="hf",
)
def nan_weight() -> str:
    model = tiny()
    probe = HFProbe.wrapping(model, "all")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 5] = float("nan")
    return attested(probe, "finite output")


@fault(
    "the error of an adapted layer",
    "LoRA carries a layer's whole output, past the site",
    "refused, with the site",
    by="attestation",
    engine="hf",
)
def lora_path_bypasses_the_site() -> str:
    from peft import LoraConfig, get_peft_model

    model = tiny()
    layer = model.model.layers[1].mlp.up_proj
    with torch.no_grad():
        layer.weight.zero_()
    HFProbe.wrapping(model, "linear")
    adapted = get_peft_model(model, LoraConfig(target_modules=["up_proj"], init_lora_weights=False))
    return attested(HFProbe(adapted.base_model.model), UP)


@fault(
    "an optimizer's step at weights in a number format: Q(W) of the old weights",
    "a training step of which nothing tells (version, step, sample), then an attestation",
    "refused, with the layers",
    by="attestation",
    engine="hf",
)
def stale_quantised_weight_after_a_step() -> str:
    spec = NoiseConfig(targets=["linear"], error="nvfp4", point="weight")
    model = wrap(tiny(), spec)
    ids = torch.arange(12)[None] + 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = held._version, held._sample_of
    held._version, held._sample_of = (lambda weight: (0,)), (lambda weight: torch.zeros(1))
    try:
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        words = ("weights with error are of the present weights", "layers.0.self_attn.q_proj")
        return attested(HFProbe(model), *words)
    finally:
        held._version, held._sample_of = kept
