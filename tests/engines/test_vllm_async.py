"""An asynchronous engine that drafts: n-gram speculation, settings under load, and its death.

Its process is forked, which vLLM's CPU platform does not do by itself. The yardstick is Hugging
Face, as in test_vllm_features.py. A draft that is refused leaves rows behind that no answer has;
one that is accepted gives several rows of one request a step, each with its own key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines.vllm_engine import Record, make_model
from tests.engines.vllm_feature_engine import AsyncEngine
from tests.engines.yardstick import FLOOR, Yardstick

pytestmark = pytest.mark.engine

SPEC: dict[str, Any] = {
    "rules": [{"targets": ["linear", "norm", "activation", "attention"], "scale": 0.05}],
    "seed": 13,
}
# Each repeats itself, so that there is something to draft from.
PROMPTS = [
    [3 + (i * 37 + (j % (5 + i)) ** 2 * 3) % 190 for j in range(40 + 9 * i)] for i in range(8)
]


@dataclass
class Bench:
    engine: AsyncEngine
    hf: Yardstick

    def gap(self, prompt: list[int], answer: Record) -> float:
        return self.hf.gap(prompt, answer["tokens"], answer["decoded"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("async")
    shape = {"hidden": 64, "heads": 2, "kv": 1, "inner": 160, "tied": True}
    model = make_model(folder / "model", dtype="float32", **shape)
    engine = AsyncEngine(
        folder / "log.txt",
        start_method="fork",
        model=str(model),
        dtype="float32",
        max_model_len=256,
        max_num_seqs=16,
        max_num_batched_tokens=128,
        kv_cache_memory_bytes=64 << 20,
        skip_tokenizer_init=True,
        quantization="hetero_noise",
        additional_config={"hetero_noise": SPEC},
        speculative_config={
            "method": "ngram",
            "num_speculative_tokens": 3,
            "prompt_lookup_min": 1,
            "prompt_lookup_max": 3,
        },
    )
    yield Bench(engine, Yardstick(model, SPEC))
    engine.close()


@pytest.fixture(autouse=True)
def _reset(bench: Bench, request: pytest.FixtureRequest) -> None:
    if "dies" not in request.node.name:
        bench.engine.set(reset=True)


def test_the_engine_is_a_forked_process(bench: Bench) -> None:
    assert bench.engine.ask("start_method") == "fork"
    lines = [x for x in bench.engine.log.read_text().splitlines() if "hetero_noise: engine" in x]
    assert len(lines) == 1 and "24 sites" in lines[0]


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_a_drafted_token_has_its_own_error(bench: Bench, temperature: float) -> None:
    """Greedy and sampled; some drafts must be accepted and some refused for this to count."""
    before = bench.engine.ask("drafts")
    answers = bench.engine.ask("sample", prompts=PROMPTS, max_tokens=40, temperature=temperature)
    after = bench.engine.ask("drafts")
    drafted, accepted = (after[key] - before[key] for key in ("draft", "accepted"))
    assert drafted > accepted > 0
    gaps = [bench.gap(prompt, answer) for prompt, answer in zip(PROMPTS, answers, strict=True)]
    assert max(gaps) <= FLOOR
    bench.engine.set(scale=0.0)
    (clean,) = bench.engine.ask("sample", prompts=PROMPTS[:1], max_tokens=40, temperature=0.0)
    assert bench.gap(PROMPTS[0], clean) > 1000 * FLOOR, "the noise must be seen to count"


def test_prompts_and_drafts_together(bench: Bench) -> None:
    answers = bench.engine.ask(
        "sample", prompts=PROMPTS, max_tokens=12, temperature=0.0, prompt_logprobs=0
    )
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert bench.hf.gap(prompt[:1], prompt[1:], answer["prompt"]) <= FLOOR
        assert bench.gap(prompt, answer) <= FLOOR


def test_scales_change_under_load_and_nothing_is_compiled(bench: Bench) -> None:
    before = bench.engine.status()["compiled"]
    scales = [0.0, 0.02, 0.1, 0.0, 0.05]
    found = bench.engine.ask("change_while_busy", prompts=PROMPTS, scales=scales)
    assert [said[0] for said in found["said"]] == pytest.approx(scales)
    assert found["running"] > 0, "the engine must have been busy for this to count"
    assert found["tokens"] == [60]
    assert bench.engine.status()["compiled"] == before
    (answer,) = bench.engine.ask("sample", prompts=PROMPTS[:1], max_tokens=20, temperature=0.0)
    assert bench.gap(PROMPTS[0], answer) <= FLOOR, "the last scale is the spec's"


def test_z_a_call_ends_when_the_engine_dies(bench: Bench) -> None:
    """Last here, as it ends the engine: killed while it holds a call."""
    found = bench.engine.ask("killed_while_setting")
    assert found["waited"], "the call must have been pending when the engine was killed"
    for name in ("during", "after"):
        assert found[name].startswith("EngineDied") and "unknown" in found[name]
