"""Resampling, preemption and partial sums in real vLLM engines; on two ranks also accumulators.

float32, so that what differs is the noise; 2e-5 is left for GEMMs of other heights, and the noise's
own effect is over a hundred times that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines.operators import OperatorEngine, check_products
from tests.engines.vllm_engine import Engine, Record, make_model
from tests.engines.yardstick import hf_model

pytestmark = pytest.mark.engine

TOLERANCE = 2e-5
PROMPTS = [[3 + (j * 17 + i * 29 + j * j) % 190 for j in range(100)] for i in range(7)]
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
RULE: dict[str, Any] = {"targets": ["linear", "norm", "activation", "attention"], "scale": 0.05}
ACCUMULATE: dict[str, Any] = {
    "targets": ["linear"],
    "error": "accumulate",
    "options": {"hardware": "hopper"},
}
PARTIAL: dict[str, Any] = {
    "rules": [
        {"targets": ["*.o_proj", "*.down_proj"], "scale": 0.05},
        {**ACCUMULATE, "scale": 0.0},  # until a test sets it
    ],
    "partial": True,
    "seed": 3,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"hidden": 128, "heads": 4, "kv": 2, "inner": 192, "tied": True}
    return make_model(tmp_path_factory.mktemp("m") / "model", dtype="float32", **shape)


@pytest.fixture(scope="module")
def start(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Engine]:
    def starter(spec: dict[str, Any], env: dict[str, str], **settings: Any) -> Engine:
        path = tmp_path_factory.mktemp("engine")
        return OperatorEngine(
            path / "log.txt",
            env,
            model=str(model),
            dtype="float32",
            quantization="hetero_noise",
            additional_config={"hetero_noise": spec},
            **settings,
        )

    return starter


@pytest.fixture(scope="module")
def fixed(start: Callable[..., Engine]) -> Iterator[Engine]:
    """``resample: never``, with room for ten blocks of 128 tokens."""
    spec = {"rules": [RULE], "resample": "never"}
    engine = start(
        spec,
        IN_PROCESS,
        num_gpu_blocks_override=10,
        enable_prefix_caching=False,
        disable_log_stats=False,
    )
    yield engine
    engine.close()


def gap(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def step(engine: Engine, n: int) -> None:
    engine.ask("call", method="hetero_noise_step", arguments={"step": n, "aqn": False})


def test_never_is_the_same_error_at_every_step_and_call(fixed: Engine) -> None:
    first = fixed.logprobs(*PROMPTS[:2])
    for n in (1, 5):
        step(fixed, n)
        assert fixed.logprobs(*PROMPTS[:2]) == first
    fixed.set(scale=0.0)
    clean = fixed.logprobs(*PROMPTS[:2])
    fixed.set(reset=True)
    assert gap(clean[0]["prompt"], first[0]["prompt"]) > 100 * TOLERANCE


def test_a_preempted_request_gets_the_noise_it_would_have_had(fixed: Engine) -> None:
    """Seven requests that grow to two blocks each, in ten blocks: some are put off, recomputed."""
    ask = lambda prompts: fixed.ask("decode", prompts=prompts, tokens=60)  # noqa: E731
    alone = [ask([prompt])[0] for prompt in PROMPTS]
    before = fixed.ask("preemptions")
    together = ask(PROMPTS)
    assert fixed.ask("preemptions") > before, "nothing was preempted, so nothing was tested"
    for a, b in zip(alone, together, strict=True):
        assert a["tokens"] == b["tokens"]
        assert gap(a["decoded"], b["decoded"]) < TOLERANCE


def test_call_is_new_error_at_every_call_and_a_second_run_repeats_the_first(
    start: Callable[..., Engine],
) -> None:
    runs: list[list[Record]] = []
    for _ in range(2):
        engine = start(
            {"rules": [RULE], "resample": "call"}, IN_PROCESS, enable_prefix_caching=False
        )
        try:
            runs.append([engine.logprobs(PROMPTS[0])[0] for _ in range(3)])
            engine.set(scale=0.0)
            assert engine.logprobs(PROMPTS[0]) == engine.logprobs(PROMPTS[0])
        finally:
            engine.close()
    assert runs[0] == runs[1]
    for i in range(3):
        for j in range(i):
            assert gap(runs[0][i]["prompt"], runs[0][j]["prompt"]) > 100 * TOLERANCE


def _reference(model: Path) -> list[list[float]]:
    """Log-probs of a Hugging Face model whose row-parallel layers are sums of two noisy halves."""
    import torch
    from torch import Tensor, nn
    from transformers import AutoModelForCausalLM

    from hetero_plugin import NoiseConfig, random
    from hetero_plugin.operator import Chain
    from hetero_plugin.sites import sites_from_config
    from hetero_plugin.state import NoiseState

    hf = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    state = NoiseState(NoiseConfig.parse(PARTIAL), sites_from_config(hf.config.to_dict()))
    draw = state.draw

    def halves(chains: list[Chain]) -> Callable[..., Tensor]:
        def hook(module: nn.Linear, args: tuple[Tensor], output: Tensor) -> Tensor:
            x, w = args[0], module.weight
            k = w.shape[1] // 2
            parts = [x[..., :k] @ w[:, :k].T, x[..., k:] @ w[:, k:].T]
            return sum(c(y, draw) for c, y in zip(chains, parts, strict=True))

        return hook

    hooked = 0
    for name, module in hf.named_modules():
        if name.endswith(("o_proj", "down_proj")):
            parts = [(name, module.out_features, 0)]
            pair = [Chain.of(state, "output", parts, share=rank) for rank in (0, 1)]
            assert all(pair)
            module.register_forward_hook(halves(pair))
            hooked += 1
    assert hooked == 4
    answers = []
    for prompt in PROMPTS:
        ids = torch.tensor(prompt)
        draw = state.draw.of(random.row_keys(ids, torch.arange(len(prompt))))
        with torch.no_grad():
            logits = hf(ids[None]).logits.log_softmax(-1)[0]
        answers.append(logits[:-1].gather(1, ids[1:, None])[:, 0].tolist())
    return answers


@pytest.fixture(scope="module")
def halves(start: Callable[..., Engine]) -> Iterator[Engine]:
    """Two ranks, each with error of its own on its part of a sum."""
    env = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    engine = start(PARTIAL, env, tensor_parallel_size=2, seed=0)
    yield engine
    engine.close()


def test_partial_puts_an_error_of_its_own_on_each_ranks_sum(halves: Engine, model: Path) -> None:
    halves.set(reset=True)
    noisy = halves.logprobs(*PROMPTS)
    halves.set(scale=0.0)
    clean = halves.logprobs(*PROMPTS)
    for ours, without, theirs in zip(noisy, clean, _reference(model), strict=True):
        assert gap(ours["prompt"], theirs) < TOLERANCE
        assert gap(without["prompt"], theirs) > 100 * TOLERANCE


def test_each_rank_adds_up_as_the_machine_does(halves: Engine, model: Path) -> None:
    """To the bit: layers that are split by columns give Hugging Face's columns; of those that are
    split by rows each rank gives the product of its rows, and the all-reduce their sum."""
    from hetero_plugin import wrap

    halves.rules(0.0, 1.0)
    hf = wrap(hf_model(model, "float32"), {"rules": [ACCUMULATE]}, quiet=True)
    compared = check_products(halves, hf, PROMPTS[0][:40], summed=True)
    print(f"{compared} numbers, no difference")
    assert compared > 50_000
