"""Tensor parallel and chunked prefill: two worker processes, prompts cut into pieces, same noise.

The yardstick is Hugging Face, one process and whole prompts, so this is also the parity test of a
third shape, scope by scope: with fewer key-value heads than ranks, an MLP whose shards start inside
a group of 128 columns, and a vocabulary that does not fill the second rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines import families
from tests.engines.vllm_engine import Engine, make_model
from tests.engines.yardstick import gap, hf_logprobs, hf_model, prompts_of
from tests.faults.registry import Fault, everything
from tests.faults.tp_engine import TPEngine

pytestmark = pytest.mark.engine

SPEC: dict[str, Any] = {
    "rules": [
        {"targets": ["linear", "norm", "activation"], "scale": 0.05},
        # Blocks of 32 columns: o_proj's shards are of 64, down_proj's of 96.
        {"targets": ["linear"], "error": "mxfp4", "point": "weight"},
        {"targets": ["*.1.*.down_proj"], "error": "mxfp8_e4m3", "point": "weight", "scale": 0.5},
    ],
    "seed": 9,
}
# Prompts of up to 189 tokens against 64 a step: each is computed in pieces, beside other prompts'.
PROMPTS = [[3 + (j * 13 + i * 5 + j * j) % 190 for j in range(120 + 5 * i)] for i in range(14)]
FAULTS = [one for one in everything() if one.engine == "vllm tp"]
OFF = {"linear": ["norm", "activation", "lm_head"], "all": ["activation"], "all and activation": []}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"hidden": 128, "heads": 4, "kv": 1, "inner": 192, "tied": False}
    return make_model(tmp_path_factory.mktemp("tp") / "model", dtype="float32", **shape)


@pytest.fixture(scope="module")
def engine(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TPEngine]:
    path = tmp_path_factory.mktemp("engine")
    made = TPEngine(
        path / "log.txt",
        {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # functions are sent to a rank, to spoil it
        },
        model=str(model),
        dtype="float32",
        tensor_parallel_size=2,
        max_num_batched_tokens=64,
        quantization="hetero_noise",
        additional_config={"hetero_noise": SPEC},
    )
    yield made
    made.close()


@pytest.mark.compat("tensor parallel")
def test_both_ranks_say_what_they_do(engine: Engine) -> None:
    lines = [x for x in engine.log.read_text().splitlines() if "hetero_noise: engine" in x]
    assert len(lines) == 2, lines
    assert any("engine worker 0" in x for x in lines) and any("engine worker 1" in x for x in lines)
    assert len({x.rsplit("spec ", 1)[1] for x in lines}) == 1


@pytest.mark.parametrize("fault", FAULTS, ids=[one.name.replace(" ", "-") for one in FAULTS])
def test_fault_is_noticed(fault: Fault, engine: TPEngine) -> None:
    print(f"{fault.name}: {fault.run(engine)}")
    assert engine.refusal() == ""  # with the rank mended, every site is seen on both


@pytest.mark.compat("tensor parallel")
@pytest.mark.parametrize("scope", list(OFF))
def test_the_error_of_a_site_does_not_depend_on_sharding_or_chunks(
    engine: Engine, model: Path, scope: str
) -> None:
    """Bound: half as much again as the clean engines differ; a floor of 2e-5 for float32 sums."""
    from hetero_plugin.hf import disabled, state_of, wrap

    assert sum(len(p) for p in PROMPTS) >= 2000
    hf = wrap(hf_model(model, "float32"), SPEC)
    engine.set(reset=True)
    engine.set(scale=0.0)
    with disabled(hf):
        clean = hf_logprobs(hf, PROMPTS)
    clean_gap = gap(prompts_of(engine.logprobs(*PROMPTS)), clean)
    engine.set(reset=True)
    for kind in OFF[scope]:
        engine.set(scale=0.0, kind=kind)
        state_of(hf).set_scale(0.0, kind=kind)
    noisy = hf_logprobs(hf, PROMPTS)
    assert gap(prompts_of(engine.logprobs(*PROMPTS)), noisy) <= max(1.5 * clean_gap, 2e-5)
    assert gap(noisy, clean) >= 10 * max(clean_gap, 2e-5)


def test_one_prompt_alone_has_the_noise_of_the_crowd(engine: Engine) -> None:
    engine.set(reset=True)
    together = engine.logprobs(*PROMPTS[::-1])[::-1]
    for i in (0, 6, 13):
        alone = engine.logprobs(PROMPTS[i])[0]["prompt"]
        assert max(abs(a - b) for a, b in zip(alone, together[i]["prompt"], strict=True)) < 2e-5


SHARDED = {"phi3": [], "olmo2": ["*.q_norm", "*.k_norm"]}
"""Families that are split over ranks in a way of their own, and what two ranks can't have: parts of
one site (Phi-3's qkv_proj and gate_up_proj), norms of all heads together."""


@pytest.mark.parametrize("family", list(SHARDED))
def test_two_ranks_have_the_error_of_one_model(family: str, tmp_path: Path) -> None:
    from hetero_plugin import disabled, wrap

    prompts = families.PROMPTS
    hf = families.make(family, tmp_path / "model")
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
    noisy = prompts_of(engine.logprobs(*prompts))
    engine.set(scale=0.0)
    clean = prompts_of(engine.logprobs(*prompts))
    engine.close()
    wrap(hf, spec)
    noisy_hf = hf_logprobs(hf, prompts)
    with disabled(hf):
        clean_hf = hf_logprobs(hf, prompts)
    bound = max(1.5 * gap(clean, clean_hf), 2e-5)
    assert bound < 1e-4
    assert gap(noisy, noisy_hf) <= bound
    assert gap(noisy_hf, clean_hf) >= 10 * bound
