"""Attestation of real Hugging Face models: it passes where noise is, and names where it isn't."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from hetero_plugin import NoiseConfig, attestation, state_of, unwrap, wrap
from hetero_plugin.attestation.expected import probe_prompts
from hetero_plugin.hf.probe import HFProbe


def model(dtype: torch.dtype = torch.float32) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        initializer_range=0.05,
    )
    return Qwen2ForCausalLM(config).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("preset", "sites"), [("rmsnorm", 5), ("qerl-fp4", 14), ("all-ops", 24)])
def test_every_site_of_a_wrapped_model_is_seen(preset: str, sites: int, dtype: torch.dtype) -> None:
    probe = HFProbe.wrapping(model(dtype), preset)
    record = attestation.attest(probe)
    assert record["passed"], record["failures"]
    assert (record["seen"], record["of"]) == (sites, sites)
    assert record["clean_is"] == "the model before wrap"
    assert attestation.problems(record, NoiseConfig.parse(preset).fingerprint) == []


def test_scales_grads_and_mode_are_left_as_they_were() -> None:
    noisy = model().train()
    noisy.lm_head.weight.grad = torch.ones_like(noisy.lm_head.weight)
    probe = HFProbe.wrapping(noisy, {"preset": "all", "direction": "backward"})
    before = state_of(noisy).scales.clone()
    assert attestation.attest(probe)["passed"]
    assert torch.equal(state_of(noisy).scales, before)
    assert noisy.training
    assert torch.equal(noisy.lm_head.weight.grad, torch.ones_like(noisy.lm_head.weight))
    assert noisy.model.norm.weight.grad is None


def test_error_on_gradients_alone_is_seen_by_gradients() -> None:
    record = attestation.attest(
        HFProbe.wrapping(model(), {"preset": "all", "direction": "backward"})
    )
    assert record["passed"], record["failures"]
    assert (record["seen"], record["of"]) == (20, 20)


def test_a_spec_for_another_phase_selects_nothing_here() -> None:
    record = attestation.attest(HFProbe.wrapping(model(), {"preset": "all", "phase": "rollout"}))
    assert not record["passed"]
    assert any("selects no site" in failure for failure in record["failures"])


def _replace(noisy: nn.Module) -> str:
    """Another library puts its own layer in place of a wrapped one."""
    layer = noisy.model.layers[1].mlp  # type: ignore[union-attr, index]
    fresh = nn.Linear(64, 128, bias=False)
    fresh.weight = layer.up_proj.weight
    layer.up_proj = fresh
    return "model.layers.1.mlp.up_proj"


def _forward(noisy: nn.Module) -> str:
    """A fused kernel computes a layer without going through its forward."""
    layer = noisy.model.layers[0].self_attn.o_proj  # type: ignore[union-attr, index]
    weight = layer.weight
    layer.forward = lambda x: nn.functional.linear(x, weight)
    return "model.layers.0.self_attn.o_proj"


def _scale(noisy: nn.Module) -> str:
    """A captured graph with an old table: the scale of one site never arrives."""
    state = state_of(noisy)
    slot = next(s for s in state.slots if s.site.name == "model.norm")
    write = state._write_scales

    def forgetful() -> None:
        write()
        state.scales[slot.index] = 0.0

    state._write_scales = forgetful  # type: ignore[method-assign]
    return "model.norm"


@pytest.mark.parametrize("fault", [_replace, _forward, _scale])
def test_a_lost_site_is_named(fault: Callable[[nn.Module], str]) -> None:
    probe = HFProbe.wrapping(model(), "all")
    name = fault(probe.model)
    record = attestation.attest(probe)
    assert [site["name"] for site in record["sites"] if not site["seen"]] == [name]
    assert name in " ".join(attestation.problems(record))


def test_noise_that_is_not_the_plugins_is_not_clean() -> None:
    """Something else disturbs the wrapped model: off is no longer the model before wrap."""
    probe = HFProbe.wrapping(model(), "qerl-fp4")
    with torch.no_grad():
        probe.model.model.norm.weight.add_(1e-3)
    record = attestation.attest(probe)
    assert [c["name"] for c in record["checks"] if not c["passed"]] == ["off equals clean"]


def test_an_unwrapped_model_breaks_off_and_is_refused() -> None:
    probe = HFProbe.wrapping(model(), "qerl-fp4")
    unwrap(probe.model)
    record = attestation.attest(probe)
    assert not record["passed"] and record["seen"] == 0


@pytest.mark.slow
def test_the_compiled_model_is_attested_too() -> None:
    torch._dynamo.reset()
    record = attestation.attest(HFProbe.wrapping(model(), "qerl-fp4", compiled=True))
    assert record["engine"] == "hf-compiled" and record["passed"], record["failures"]
    assert (record["seen"], record["of"]) == (14, 14)


def test_wrapping_twice_is_refused_before_anything_runs() -> None:
    noisy = wrap(model(), "qerl-fp4", quiet=True)
    before = copy.deepcopy(noisy.state_dict())
    with pytest.raises(ValueError, match="wrapped already"):
        HFProbe.wrapping(noisy, "qerl-fp4")
    assert all(torch.equal(before[k], v) for k, v in noisy.state_dict().items())


def test_prompts_are_fixed_and_unlike() -> None:
    prompts = probe_prompts(256)
    assert prompts == probe_prompts(256)
    assert len({tuple(prompt) for prompt in prompts}) == len(prompts) == 4
    assert all(0 <= token < 256 for prompt in prompts for token in prompt)
    assert all(len(set(prompt)) == len(prompt) for prompt in prompts)
