"""Every family: the map and the loaded model agree; each kind of site is noisy, and can be off."""

from __future__ import annotations

import pytest
import torch

from hetero_plugin import AQN, AQNConfig, ConfigError, NoiseConfig
from hetero_plugin.config import PRESETS, preset
from hetero_plugin.hf import state_of, wrap
from hetero_plugin.hf.discover import discover
from hetero_plugin.hf.norms import heads_come_first, offset_formula
from hetero_plugin.sites import FAMILIES, Site, aqn_sites, select, sites_from_config
from tests.hf.families import FAMILY, MOE, family_config, make_family, tokens


def test_every_family_has_a_model_here() -> None:
    assert set(FAMILY) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize("tied", [False, True])
def test_the_map_is_the_loaded_model(family: str, tied: bool) -> None:
    """Every operator of the model is in the map and the other way round, with the same sizes."""
    with torch.device("meta"):
        model = make_family(family, tie_word_embeddings=tied)
    mapped = sites_from_config(family_config(family, tie_word_embeddings=tied).to_dict())
    found = [one.site for one in discover(model)]
    assert len({site.name for site in found}) == len(found) == len(mapped)
    assert set(mapped) == set(found)
    # Nothing that multiplies was overlooked: every matrix of the layers belongs to a site.
    names = {site.name for site in mapped if site.in_features is not None}
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and "embed" not in name:
            assert name.removesuffix(".weight") in names, name


def logits(model: torch.nn.Module, ids: torch.Tensor, **kwargs: object) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, **kwargs).logits


@pytest.mark.parametrize("family", FAMILY)
def test_each_site_alone_is_noisy_and_off_is_clean(family: str) -> None:
    model, ids = make_family(family), tokens()
    clean = logits(model, ids)
    kinds = ["linear", "norm", "activation", "attention"]
    kinds += ["router"] if family in MOE else []
    wrap(model, NoiseConfig(scale=0.3, targets=kinds), quiet=True)
    state = state_of(model)
    scores = {s.name for s in state.sites if s.kind == "attention_scores"}  # test_scores.py
    assert {s.site.name for s in state.selected} | scores == {s.name for s in state.sites}
    for chosen in state.selected:
        state.set_scale(enabled=False)
        state.set_scale(enabled=True, site=chosen.site.name)
        assert not torch.equal(logits(model, ids), clean), chosen.site.name
    state.set_scale(enabled=False)
    assert torch.equal(logits(model, ids), clean)


@pytest.mark.parametrize("family", MOE)
def test_the_router_is_noisy_only_when_it_is_named(family: str) -> None:
    model = make_family(family)
    routers = {one.site.name for one in discover(model) if one.site.kind == "router"}
    leaves = {"gate", "shared_expert_gate"} if family == "qwen2_moe" else {"gate"}
    assert {name.rpartition(".")[2] for name in routers} == leaves
    for name in PRESETS:
        chosen = select(preset(name), [one.site for one in discover(model)])
        assert not routers & {one.site.name for one in chosen}
    named = select(NoiseConfig(scale=0.1, targets="router"), [o.site for o in discover(model)])
    assert {one.site.name for one in named} == routers


@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize("length", [9, 4])  # 4: as many tokens as heads
def test_a_token_has_its_noise_alone_in_a_batch_and_from_the_cache(
    family: str, length: int
) -> None:
    """Every linear, norm (also of each head), activation and attention, compared one by one."""
    model, ids = make_family(family), tokens(length=length)
    wrap(model, NoiseConfig(scale=0.05, targets=["linear", "norm", "activation", "attention"]))
    whole = logits(model, ids)
    # Noise depends on a token and on the values that error came to, so a wrong key anywhere shows.
    close = dict(rtol=0, atol=2e-4)
    for i in range(2):
        torch.testing.assert_close(logits(model, ids[i : i + 1])[0], whole[i], **close)
    with torch.no_grad():
        first = model(ids[:, :2], use_cache=True)
        steps, cache = [first.logits], first.past_key_values
        for i in range(2, length):
            out = model(ids[:, i : i + 1], past_key_values=cache, use_cache=True)
            steps, cache = [*steps, out.logits], out.past_key_values
    torch.testing.assert_close(torch.cat(steps, 1), whole, **close)


@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_aqn_is_weight_plus_offset(family: str, dtype: torch.dtype) -> None:
    model, ids = make_family(family, dtype), tokens()
    clean = logits(model, ids)
    aqn = AQN(model, AQNConfig(schedule="constant", sigma_start=0.02, total_steps=3))
    offsets = state_of(model).aqn
    assert offsets is not None
    sites = {site.name for site in offsets.sites}
    norms = {one.site.name for one in discover(model) if one.site.kind == "norm"}
    if family in MOE:
        assert sites == {n for n in norms if n.endswith("post_attention_layernorm")}
    else:
        assert sites == norms
    assert torch.equal(logits(model, ids), clean)
    aqn.step(1)
    noisy = logits(model, ids)
    assert not torch.equal(noisy, clean)
    if dtype == torch.float32:
        by_hand = make_family(family)
        with torch.no_grad():
            for name in sites:
                by_hand.get_submodule(name).weight += offsets.view(name)
        torch.testing.assert_close(logits(by_hand, ids), noisy, rtol=0, atol=2e-5)
    aqn.off()
    assert torch.equal(logits(model, ids), clean)


@pytest.mark.parametrize("family", ["qwen3_moe", "phi3", "olmo2"])
def test_a_family_without_an_entry_is_found_by_the_usual_names(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {one.site.name: one.site for one in discover(make_family(family))}
    spec = NoiseConfig(scale=0.3, targets=["linear", "norm", "activation", "attention"], aqn={})
    norms = {site.name for site in aqn_sites(spec, list(known.values()))}
    monkeypatch.delitem(FAMILIES, family)
    model = make_family(family)
    found = {one.site.name: one.site for one in discover(model)}
    assert {name: site.features for name, site in found.items()} == {
        name: site.features for name, site in known.items()
    }
    assert {site.name for site in aqn_sites(spec, list(found.values()))} == norms
    clean = logits(model, tokens())
    wrap(model, spec, quiet=True)
    assert not torch.equal(logits(model, tokens()), clean)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_soft_cap_that_transformers_leaves_out_is_told(
    attention: str, caplog: pytest.LogCaptureFixture
) -> None:
    models = [make_family("gemma2"), make_family("gemma2")]
    models[0].set_attn_implementation("eager")
    models[1].set_attn_implementation(attention)
    capped, plain = (logits(model, tokens()) for model in models)
    assert torch.allclose(capped, plain, rtol=0, atol=1e-5) == (attention == "eager")
    wrap(models[1], NoiseConfig(scale=0.1))
    assert ("caps its attention scores at 2" in caplog.text) == (attention == "sdpa")


def test_a_norm_of_unknown_formula_is_refused() -> None:
    class SquareRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = torch.nn.Parameter(torch.ones(8)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight**2

    with pytest.raises(ConfigError, match="SquareRMSNorm"):
        offset_formula(SquareRMSNorm(), "model.norm")


@pytest.mark.parametrize("known", [None, True, False])
def test_a_head_norm_whose_layout_is_ambiguous_is_refused(known: bool | None) -> None:
    norm = torch.nn.RMSNorm(8)

    def first(*shape: int, tokens: int = 18) -> bool:
        site = Site("q_norm", "norm", 0, 32, None, 4, known)
        return heads_come_first(norm, torch.zeros(*shape), tokens, site)

    if known is not False:
        assert first(2, 4, 9, 8)
    if known is not True:
        assert not first(2, 9, 4, 8)
    if known is None:
        with pytest.raises(ConfigError, match="tokens or heads first"):
            first(2, 4, 4, 8, tokens=8)
    else:
        assert first(2, 4, 4, 8, tokens=8) == known
        with pytest.raises(ConfigError, match="neither tokens nor heads"):
            first(2, 9, 4, 8) if known else first(2, 4, 9, 8)
    with pytest.raises(ConfigError, match="neither tokens nor heads"):
        first(2, 5, 3, 8, tokens=8)
