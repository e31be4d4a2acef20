"""Which operators a specification selects, on the shape the experiments ran on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hetero_plugin.config import PRESETS, ConfigError, NoiseConfig, preset
from hetero_plugin.sites import (
    Site,
    UnknownArchitectureError,
    aqn_sites,
    counts,
    fused_parts,
    match,
    select,
    sites_from_config,
)

# Qwen2.5-1.5B-Instruct's config.json, the keys that matter here.
QWEN_1_5B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "num_hidden_layers": 28,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}


@pytest.fixture(scope="module")
def sites() -> tuple[Site, ...]:
    return sites_from_config(QWEN_1_5B)


@pytest.mark.parametrize(
    ("name", "total", "kinds"),
    [
        ("rmsnorm", 57, {"norm": 57}),
        ("mlp", 85, {"linear": 28, "norm": 57}),
        ("linear", 197, {"linear": 196, "lm_head": 1}),
        ("all", 254, {"linear": 196, "lm_head": 1, "norm": 57}),
        (
            "all-ops",
            310,
            {"linear": 196, "lm_head": 1, "norm": 57, "activation": 28, "attention": 28},
        ),
        ("qerl-fp4", 196, {"linear": 196}),
    ],
)
def test_presets_have_the_experiments_scopes(
    sites: tuple[Site, ...], name: str, total: int, kinds: dict[str, int]
) -> None:
    selected = select(preset(name), sites)
    assert len(selected) == total
    assert counts(selected) == kinds


def test_every_preset_is_counted_above(sites: tuple[Site, ...]) -> None:
    assert {name for name in PRESETS if "rules" not in PRESETS[name]} == {
        *("rmsnorm", "mlp", "linear", "all", "all-ops", "qerl-fp4")
    }


def test_sizes_are_those_of_the_whole_operator(sites: tuple[Site, ...]) -> None:
    by_name = {site.name: site for site in sites}
    assert by_name["model.layers.3.self_attn.q_proj"] == Site(
        "model.layers.3.self_attn.q_proj", "linear", 3, 1536, 1536
    )
    assert by_name["model.layers.27.self_attn.k_proj"].features == 256
    assert by_name["model.layers.0.mlp.down_proj"].in_features == 8960
    assert by_name["model.layers.0.mlp.act_fn"].features == 8960
    assert by_name["model.norm"] == Site("model.norm", "norm", None, 1536, None)
    assert by_name["lm_head"] == Site("lm_head", "lm_head", None, 151936, 1536)
    # LANDSCAPE's count of linear outputs per token, which these sizes have to add up to.
    linear = sum(s.features for s in sites if s.kind == "linear")
    assert linear == 28 * (1536 + 256 + 256 + 1536 + 8960 + 8960 + 1536)
    assert len(by_name) == len(sites)


def test_a_head_size_of_its_own_is_respected() -> None:
    sites = sites_from_config({**QWEN_1_5B, "head_dim": 64})
    by_name = {site.name: site for site in sites}
    assert by_name["model.layers.0.self_attn.q_proj"].features == 768
    assert by_name["model.layers.0.self_attn.o_proj"].in_features == 768
    assert by_name["model.layers.0.self_attn.v_proj"].features == 128


def test_fused_modules() -> None:
    assert fused_parts("qwen2", "qkv_proj") == ("q_proj", "k_proj", "v_proj")
    assert fused_parts("qwen2", "gate_up_proj") == ("gate_proj", "up_proj")
    assert fused_parts("qwen2", "o_proj") == ("o_proj",)


def test_words_that_select(sites: tuple[Site, ...]) -> None:
    def number(**rule: Any) -> int:
        return len(select(NoiseConfig(scale=0.1, **rule), sites))

    assert number(targets=["model.layers.3.self_attn.q_proj"]) == 1
    assert number(targets=["*.q_proj"]) == 28
    assert number(targets=["re:.*layers\\.[01]\\.mlp\\..*"]) == 8
    assert number(targets=["linear"], exclude=["lm_head", "*.down_proj"]) == 168
    assert number(targets=["norm"], layers=[0, "2-3"]) == 6
    assert number(targets=["linear"], layers=["27"]) == 7
    assert number(targets=["attention", "activation"], layers=[5]) == 2


def test_a_word_does_not_match_part_of_a_name(sites: tuple[Site, ...]) -> None:
    names = match(["model.layers.1.self_attn"], sites, "here")
    assert names == {"model.layers.1.self_attn"}


def test_rules_keep_their_order_and_number(sites: tuple[Site, ...]) -> None:
    config = NoiseConfig(
        rules=[
            {"targets": "linear", "scale": 0.1},
            {"targets": "norm", "scale": 0.2},
            {"targets": "*.q_proj", "scale": 0.3, "error": "systematic_bias"},
        ]
    )
    by_name = {s.site.name: [i for i, _ in s.rules] for s in select(config, sites)}
    assert by_name["model.layers.0.self_attn.q_proj"] == [0, 2]
    assert by_name["model.layers.0.self_attn.k_proj"] == [0]
    assert by_name["model.norm"] == [1]
    assert len(by_name) == 254


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"targets": ["down_proj"]}, r"rules\[0\]\.targets.*Did you mean '\*\.down_proj'"),
        ({"targets": ["norms"]}, "Did you mean 'norm'"),
        ({"targets": ["linear", "conv"]}, "'conv' matches none of the model's 366 sites"),
        ({"targets": ["re:q_proj"]}, "whole name"),
        ({"exclude": ["lmhead"]}, r"exclude.*lm_head"),
        ({"layers": [27, 28]}, "no layer 28"),
        ({"targets": ["lm_head"], "layers": [3]}, "leave no site"),
        ({"targets": ["norm"], "exclude": ["norm"]}, "leave no site"),
    ],
)
def test_words_that_select_nothing_are_errors(
    sites: tuple[Site, ...], rule: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        select(NoiseConfig(scale=0.1, **rule), sites)


def test_aqn_takes_norms_only(sites: tuple[Site, ...]) -> None:
    assert len(aqn_sites(NoiseConfig(rules=[], aqn={}), sites)) == 57
    some = NoiseConfig(rules=[], aqn={"targets": "*.input_layernorm"})
    assert len(aqn_sites(some, sites)) == 28
    assert aqn_sites(NoiseConfig(scale=0.1), sites) == ()
    with pytest.raises(ConfigError, match=r"norms only"):
        aqn_sites(NoiseConfig(rules=[], aqn={"targets": ["linear"]}), sites)
    with pytest.raises(ConfigError, match=r"aqn\.targets"):
        aqn_sites(NoiseConfig(rules=[], aqn={"targets": ["rmsnorm"]}), sites)


def test_aqn_before_experts_has_to_be_known() -> None:
    router = Site("model.layers.0.mlp.gate", "router", 0, 4, 8)
    norms = [Site(f"model.layers.0.{leaf}", "norm", 0, 8, None) for leaf in ("a", "b")]
    spec = NoiseConfig(rules=[], aqn={})
    with pytest.raises(ConfigError, match="norms before the experts"):
        aqn_sites(spec, [*norms, router])
    told = [norms[0], replace(norms[1], before_experts=True), router]
    assert aqn_sites(spec, told) == (told[1],)
    both = NoiseConfig(rules=[], aqn={"targets": ["norm", "*.a"]})
    assert aqn_sites(both, told) == tuple(told[:2])


def test_aqn_keeps_to_its_layers(sites: tuple[Site, ...]) -> None:
    def norms(**aqn: Any) -> tuple[Site, ...]:
        return aqn_sites(NoiseConfig(rules=[], aqn=aqn), sites)

    chosen = norms(layers=["14-17"])
    assert len(chosen) == 8 and {site.layer for site in chosen} == {14, 15, 16, 17}
    assert len(norms(multipliers={"14-17": 1.5})) == len(norms(multipliers=[1.1] * 28)) == 57
    for aqn, words in (
        ({"layers": ["26-28"]}, r"aqn\.layers: the model has no layer 28; its layers are 0 to 27"),
        ({"multipliers": {28: 2}}, r"aqn\.multipliers: the model has no layer 28"),
        ({"multipliers": [1.1] * 27}, "27 factors for a model of 28 layers"),
        ({"layers": [3], "targets": ["model.norm"]}, "leave no norm"),
    ):
        with pytest.raises(ConfigError, match=words):
            norms(**aqn)


def test_an_unmapped_family_is_named_with_what_to_add() -> None:
    # The multimodal model: its text half alone has a map.
    with pytest.raises(UnknownArchitectureError, match=r"'gemma3'.*FAMILIES"):
        sites_from_config({**QWEN_1_5B, "model_type": "gemma3"})
    with pytest.raises(UnknownArchitectureError, match="None"):
        sites_from_config({})
    with pytest.raises(UnknownArchitectureError, match="SequenceClassification"):
        sites_from_config({**QWEN_1_5B, "architectures": ["Qwen2ForSequenceClassification"]})
    with pytest.raises(UnknownArchitectureError):
        fused_parts("gemma3", "qkv_proj")


@pytest.mark.parametrize("value", [None, 0, -3, "12", True])
def test_a_bad_size_is_named(value: object) -> None:
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        sites_from_config({**QWEN_1_5B, "num_hidden_layers": value})
    short = {k: v for k, v in QWEN_1_5B.items() if k != "vocab_size"}
    with pytest.raises(ConfigError, match="vocab_size is missing"):
        sites_from_config(short)


def test_a_kind_that_the_model_has_not_is_not_proposed(sites: tuple[Site, ...]) -> None:
    others = [site for site in sites if site.kind != "norm"]
    with pytest.raises(ConfigError, match="'norm' matches none") as caught:
        select(NoiseConfig(scale=1, targets=["norm"]), others)
    assert "Did you mean 'norm'" not in str(caught.value)
