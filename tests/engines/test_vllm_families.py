"""Other families than Qwen2 in real, compiled vLLM engines: clean at zero, noisy as in HF.

One engine a family, all kinds and AQN in its spec. Bounds: half as much again as the clean engines
differ, with a floor of 2e-5 for float32 sums; and the noise is over ten times that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines.vllm_engine import Engine, Record

pytestmark = pytest.mark.engine

PROMPTS = [[3 + (j * 11 + i * 7 + j * j) % 190 for j in range(20 + 13 * i)] for i in range(8)]
SPEC: dict[str, Any] = {
    "rules": [{"targets": ["linear", "norm", "activation", "attention"], "scale": 0.05}],
    "aqn": {"schedule": "constant", "sigma_start": 0.05, "total_steps": 10},
    "seed": 5,
}
COMMON: dict[str, Any] = {
    "vocab_size": 199,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {},
    "mistral": {"sliding_window": None},
    "gemma3_text": {"sliding_window": 64, "query_pre_attn_scalar": 32},
    "phi3": {"num_key_value_heads": 4, "original_max_position_embeddings": 512},
    "gemma2": {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "sliding_window": 64,
        "query_pre_attn_scalar": 32,
        "tie_word_embeddings": True,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 5.0,
    },
    "olmo2": {"tie_word_embeddings": True},
}
# transformers' sdpa attention leaves Gemma 2's soft-capping of scores out.
ATTENTION = {"gemma2": "eager"}


@dataclass
class Case:
    hf: Any
    engine: Engine


def make(family: str, path: Path) -> Any:
    """A small model of a family, saved and at hand."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(COMMON | FAMILIES[family]))
    attention = ATTENTION.get(family)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return model


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    path = tmp_path_factory.mktemp(request.param)
    model = make(request.param, path / "model")
    engine = Engine(
        path / "log.txt",
        {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        model=str(path / "model"),
        dtype="float32",
        quantization="hetero_noise",
        additional_config={"hetero_noise": SPEC},
    )
    yield Case(model, engine)
    engine.close()


def hf_logprobs(model: Any) -> list[list[float]]:
    import torch

    answers = []
    for prompt in PROMPTS:
        with torch.no_grad():
            logits = model(torch.tensor([prompt])).logits.log_softmax(-1)[0]
        answers.append(logits[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0].tolist())
    return answers


def gap(a: list[list[float]], b: list[list[float]]) -> float:
    return max(abs(u - v) for x, y in zip(a, b, strict=True) for u, v in zip(x, y, strict=True))


def prompts_of(records: list[Record]) -> list[list[float]]:
    return [record["prompt"] for record in records]


def test_a_family_has_its_error_in_both_engines(case: Case) -> None:
    from hetero_plugin import NoiseConfig, disabled, wrap
    from hetero_plugin.aqn import AQNController
    from hetero_plugin.hf import state_of

    engine, hf = case.engine, case.hf
    ask = lambda: prompts_of(engine.logprobs(*PROMPTS))  # noqa: E731
    wrap(hf, SPEC)
    assert engine.status()["sites"] == state_of(hf).status()["sites"]
    with disabled(hf):
        clean_hf = hf_logprobs(hf)
    noisy = ask()
    engine.set(scale=0.0)
    clean = ask()
    clean_gap = gap(clean, clean_hf)
    bound = max(1.5 * clean_gap, 2e-5)
    assert bound < 1e-4, "the clean engines must agree for this to mean anything"
    noisy_hf = hf_logprobs(hf)
    assert gap(noisy, noisy_hf) <= bound
    assert gap(noisy_hf, clean_hf) >= 10 * bound
    engine.set(reset=True)
    for kind in ("linear", "lm_head", "attention", "activation", "norm"):  # each alone
        engine.set(scale=0.0)
        engine.set(scale=0.05, kind=kind)
        state_of(hf).set_scale(0.0)
        state_of(hf).set_scale(0.05, kind=kind)
        alone = hf_logprobs(hf)
        assert gap(ask(), alone) <= bound, kind
        assert gap(alone, clean_hf) >= 10 * bound, kind
    # AQN alone, on Gemma's 1 + weight and on the norms of heads too.
    engine.set(scale=0.0)
    state_of(hf).set_scale(0.0)
    aqn = NoiseConfig.parse(SPEC).aqn
    assert aqn is not None
    AQNController(aqn, state_of(hf).attach_aqn()).step(7)
    engine.ask("call", method="hetero_noise_aqn", arguments={"step": 7})
    shifted = hf_logprobs(hf)
    assert gap(ask(), shifted) <= bound
    assert gap(shifted, clean_hf) >= 10 * bound


def test_every_site_of_the_engine_is_attested(case: Case) -> None:
    from hetero_plugin.attestation import problems

    case.engine.set(reset=True)
    record = case.engine.ask("attest", spec=SPEC)
    assert problems(record) == []
    assert len(record["sites"]) == sum(case.engine.status()["sites"].values())


SHARDED = {"phi3": [], "olmo2": ["*.q_norm", "*.k_norm"]}
"""Families that are split over ranks in a way of their own, and what two ranks can't have: parts of
one site (Phi-3's qkv_proj and gate_up_proj), norms of all heads together."""


@pytest.mark.parametrize("family", list(SHARDED))
def test_two_ranks_have_the_error_of_one_model(family: str, tmp_path: Path) -> None:
    from hetero_plugin import disabled, wrap

    hf = make(family, tmp_path / "model")
    everything = ["linear", "norm", "activation", "attention"]
    spec: dict[str, Any] = {"targets": everything, "scale": 0.05, "seed": 5}
    spec |= {"exclude": SHARDED[family]} if SHARDED[family] else {}
    engine = Engine(
        tmp_path / "log.txt",
        {"VLLM_CPU_OMP_THREADS_BIND": "nobind"},  # the ranks would take the same core
        model=str(tmp_path / "model"),
        dtype="float32",
        quantization="hetero_noise",
        additional_config={"hetero_noise": spec},
        tensor_parallel_size=2,
    )
    wrap(hf, spec)
    noisy = prompts_of(engine.logprobs(*PROMPTS))
    engine.set(scale=0.0)
    clean = prompts_of(engine.logprobs(*PROMPTS))
    engine.close()
    noisy_hf = hf_logprobs(hf)
    with disabled(hf):
        clean_hf = hf_logprobs(hf)
    bound = max(1.5 * gap(clean, clean_hf), 2e-5)
    assert bound < 1e-4
    assert gap(noisy, noisy_hf) <= bound
    assert gap(noisy_hf, clean_hf) >= 10 * bound
