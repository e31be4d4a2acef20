"""Mixture of experts in real, compiled vLLM engines: clean at zero, noisy as in Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines.test_vllm_families import (
    COMMON,
    PROMPTS,
    gap,
    hf_logprobs,
    prompts_of,
)
from tests.engines.vllm_engine import Engine, Record

pytestmark = pytest.mark.engine

FIXED = {"qwen2_moe": "*.1.mlp.experts.*_proj", "qwen3_moe": "*.0.mlp.experts.*_proj"}
"""Experts whose weights are in a number format: beside other errors, and alone."""
RANDOM = {"qwen2_moe": ["router"], "qwen3_moe": ["router", "*.1.mlp.experts.*_proj"]}


def spec(family: str) -> dict[str, Any]:
    return {
        "rules": [
            # Of Qwen3-MoE layer 0's experts have error on their weights alone.
            {
                "targets": ["linear", "norm", "activation", "attention", "router"],
                "exclude": ["*.0.mlp.experts.*"] if family == "qwen3_moe" else [],
                "scale": 0.05,
            },
            {
                "targets": ["*.1.mlp.experts.*_proj", "router"],
                "point": "input",
                "scale": 0.02,
            },
            {"targets": RANDOM[family], "point": "weight", "scale": 0.02},
            {"targets": [FIXED[family]], "error": "mxfp4", "point": "weight"},
        ],
        "aqn": {"schedule": "constant", "sigma_start": 0.05, "total_steps": 10},
        "seed": 5,
    }


EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    # A dense layer first, a shared expert with a gate, weights of the router that don't add to 1.
    "qwen2_moe": EXPERTS
    | {"mlp_only_layers": [0], "shared_expert_intermediate_size": 96, "norm_topk_prob": False},
    "qwen3_moe": EXPERTS | {"norm_topk_prob": True},
}
FEW = PROMPTS[:3]


@dataclass
class Case:
    family: str
    hf: Any
    model: Path
    engine: Engine
    clean: list[Record]
    """Of an engine without the plugin."""


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **(COMMON | FAMILIES[request.param]))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(path / "model")
    env = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    common = {"model": str(path / "model"), "dtype": "float32"}
    plain = Engine(path / "clean.txt", env, **common)
    clean = plain.logprobs(*FEW)
    plain.close()
    engine = Engine(
        path / "log.txt",
        env,
        quantization="hetero_noise",
        additional_config={"hetero_noise": spec(request.param)},
        **common,
    )
    yield Case(request.param, model, path / "model", engine, clean)
    engine.close()


def test_experts_have_their_error_in_both_engines(case: Case) -> None:
    from hetero_plugin import NoiseConfig, disabled, wrap
    from hetero_plugin.aqn import AQNController
    from hetero_plugin.hf import state_of

    engine, hf = case.engine, case.hf
    ask = lambda: prompts_of(engine.logprobs(*PROMPTS))  # noqa: E731
    wrap(hf, spec(case.family))
    state = state_of(hf)
    assert engine.status()["sites"] == state.status()["sites"]
    noisy = ask()
    engine.set(scale=0.0)
    assert engine.logprobs(*FEW) == case.clean
    with disabled(hf):
        clean_hf = hf_logprobs(hf)
    clean_gap = gap(ask(), clean_hf)
    bound = max(1.5 * clean_gap, 2e-5)
    print(case.family, "clean", clean_gap, "noisy", gap(noisy, hf_logprobs(hf)))
    assert bound < 1e-4, "the clean engines must agree for this to mean anything"
    assert gap(noisy, hf_logprobs(hf)) <= bound

    def both(scale: float, **where: str) -> None:
        engine.set(scale=scale, **where)
        state.set_scale(scale, **where)

    experts = "model.layers.1.mlp.experts"
    alone: list[dict[str, str]] = [{"kind": kind} for kind in ("activation", "router")]
    alone += [{"site": f"{experts}.{leaf}"} for leaf in ("gate_up_proj", "act_fn", "down_proj")]
    alone += [{"site": "model.layers.1.mlp.gate"}]
    if case.family == "qwen2_moe":
        shared = ("shared_expert_gate", "shared_expert.up_proj", "shared_expert.down_proj")
        alone += [{"site": f"model.layers.1.mlp.{leaf}"} for leaf in shared]
    for where in alone:
        both(0.0)
        both(0.05, **where)
        expected = hf_logprobs(hf)
        print(where, gap(ask(), expected), gap(expected, clean_hf))
        assert gap(ask(), expected) <= bound, where
        assert gap(expected, clean_hf) >= 10 * bound, where
    # AQN alone: the norms after the router's.
    both(0.0)
    aqn = NoiseConfig.parse(spec(case.family)).aqn
    assert aqn is not None and state.aqn is not None
    assert [site.name.rsplit(".", 1)[-1] for site in state.aqn.sites] == [
        "post_attention_layernorm"
    ] * 2
    AQNController(aqn, state.attach_aqn()).step(7)
    engine.ask("call", method="hetero_noise_aqn", arguments={"step": 7})
    shifted = hf_logprobs(hf)
    assert gap(ask(), shifted) <= bound
    assert gap(shifted, clean_hf) >= 10 * bound
    engine.ask("call", method="hetero_noise_aqn", arguments={"off": True})


def test_experts_take_new_weights(case: Case) -> None:
    """After a weight sync, vLLM's kernel and the noisy path both have the new weights."""
    engine = case.engine
    engine.set(reset=True)
    noisy = engine.logprobs(*FEW)
    for process in (False, True):
        assert engine.ask("reload", path=str(case.model), process=process) > 0
        assert engine.logprobs(*FEW) == noisy
        engine.set(scale=0.0)
        assert engine.logprobs(*FEW) == case.clean
        engine.set(reset=True)
