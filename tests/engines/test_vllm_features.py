"""vLLM's features on a noisy engine: none fails, and every token has its own error in all of them.

The yardstick is Hugging Face, which knows none of these features: whole sequences, one at a time,
under the same specification. An error belongs to a token and its place, so whichever way vLLM came
to a sequence, the log-probabilities of its tokens must be Hugging Face's. float32, one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from hetero_plugin.miniature.model import VOCAB_SIZE, build_tokenizer
from tests.engines.vllm_engine import Record, make_model
from tests.engines.vllm_feature_engine import FeatureEngine
from tests.engines.yardstick import FLOOR, Yardstick

pytestmark = pytest.mark.engine

SPEC: dict[str, Any] = {
    "rules": [{"targets": ["linear", "norm", "activation", "attention"], "scale": 0.05}],
    "aqn": {"schedule": "constant", "sigma_start": 0.05, "total_steps": 10},
    "seed": 11,
}
OTHER: dict[str, Any] = {"rules": [{"targets": ["norm", "lm_head"], "scale": 0.08}], "seed": 12}
SETTINGS: dict[str, Any] = {
    "dtype": "float32",
    "skip_tokenizer_init": False,  # beams and grammars need a tokenizer
    "max_num_batched_tokens": 64,  # shorter than the prompts: they are computed in pieces
    "quantization": "hetero_noise",
}
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
PROMPTS = [[3 + (j * 13 + i * 5 + j * j) % 256 for j in range(90 + 17 * i)] for i in range(6)]


@dataclass
class Bench:
    """The noisy engine, and what it should say."""

    engine: FeatureEngine
    hf: Yardstick
    model: Path
    folder: Path

    def gap(self, prompt: list[int], answer: Record) -> float:
        """How far an answer's log-probabilities are from Hugging Face's."""
        return self.hf.gap(prompt, answer["tokens"], answer["decoded"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("features")
    shape = {"hidden": 128, "heads": 4, "kv": 2, "inner": 192, "tied": False}
    model = make_model(folder / "model", dtype="float32", vocab=VOCAB_SIZE, **shape)
    build_tokenizer().save_pretrained(model)
    engine = start(folder, model, SPEC, "first.log")
    yield Bench(engine, Yardstick(model, SPEC), model, folder)
    engine.close()


def start(folder: Path, model: Path, spec: dict[str, Any], log: str) -> FeatureEngine:
    return FeatureEngine(
        folder / log,
        IN_PROCESS | {"VLLM_CACHE_ROOT": str(folder / "cache")},
        model=str(model),
        additional_config={"hetero_noise": spec},
        **SETTINGS,
    )


@pytest.fixture(autouse=True)
def _reset(bench: Bench) -> None:
    bench.engine.set(reset=True)
    bench.engine.ask("call", method="hetero_noise_step", arguments={"step": 0, "aqn": False})
    bench.engine.ask("call", method="hetero_noise_aqn", arguments={"off": True})


def test_n_samples_of_a_prompt(bench: Bench) -> None:
    found = bench.engine.ask("sample", prompts=PROMPTS[:3], n=4, temperature=1.0, max_tokens=24)
    for prompt, answers in zip(PROMPTS, found, strict=False):
        assert len(answers) == 4 and len({tuple(a["tokens"]) for a in answers}) == 4
        assert max(bench.gap(prompt, answer) for answer in answers) <= FLOOR
    bench.engine.set(scale=0.0)
    clean = bench.engine.ask("sample", prompts=PROMPTS[:1], temperature=0.0, max_tokens=24)
    assert bench.gap(PROMPTS[0], clean[0][0]) > 1000 * FLOOR, "the noise must be seen to count"


def test_beams(bench: Bench) -> None:
    found = bench.engine.ask("beams", prompts=PROMPTS[:2], width=4, tokens=10)
    for prompt, beams in zip(PROMPTS, found, strict=False):
        assert len({tuple(beam["tokens"]) for beam in beams}) == 4
        for beam in beams:
            assert bench.gap(prompt, beam) <= FLOOR
            assert beam["sum"] == pytest.approx(sum(beam["decoded"]), abs=1e-4)
        assert [b["sum"] for b in beams] == sorted((b["sum"] for b in beams), reverse=True)


def test_the_likeliest_tokens_of_a_prompt(bench: Bench) -> None:
    prompt = PROMPTS[5]
    rows = bench.hf.rows(prompt)
    for row, token, found in zip(
        rows, prompt[1:], bench.engine.ask("best", prompt=prompt, k=5), strict=False
    ):
        for name, value in found.items():
            assert abs(float(row[int(name)]) - value) <= FLOOR
        likeliest = {int(name) for name in found} - {token}
        assert {int(i) for i in row.topk(5).indices} >= likeliest and len(likeliest) >= 4


def test_a_grammar_leaves_the_noise_of_what_it_allows(bench: Bench) -> None:
    """vLLM's log-probabilities are of the allowed words; Hugging Face's are set so too."""
    digits = [3 + b for b in range(ord("0"), ord("9") + 1)]
    words = build_tokenizer().convert_ids_to_tokens(digits)
    assert words == list("0123456789")
    found = bench.engine.ask(
        "sample", prompts=PROMPTS[:3], temperature=1.0, max_tokens=8, regex="[0-9]{8}"
    )
    for prompt, (answer,) in zip(PROMPTS, found, strict=False):
        assert len(answer["tokens"]) == 8 and set(answer["tokens"]) <= set(digits)
        rows = bench.hf.rows(prompt + answer["tokens"])[len(prompt) - 1 : -1]
        expected = rows[:, digits].log_softmax(-1)
        for row, token, value in zip(expected, answer["tokens"], answer["decoded"], strict=True):
            assert abs(float(row[digits.index(token)]) - value) <= FLOOR


def test_prompts_in_pieces_beside_answers(bench: Bench) -> None:
    """64 tokens a step: prompts of 90 to 175 are computed in pieces, beside others' decoding."""
    found = bench.engine.ask("logprobs", prompts=PROMPTS, tokens=12)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        assert bench.gap(prompt, answer) <= FLOOR
        assert bench.hf.gap(prompt[:1], prompt[1:], answer["prompt"]) <= FLOOR


def test_a_prefix_from_the_cache(bench: Bench) -> None:
    prefix = PROMPTS[5][:140]
    bench.engine.set(reset=True)  # empties the cache
    first = bench.engine.ask("continuation", prompt=[*prefix, 7], tokens=8)
    other = bench.engine.ask("continuation", prompt=[*prefix, 9, 8], tokens=8)
    assert first["cached"] == 0 and other["cached"] >= 128
    assert bench.gap([*prefix, 7], first) <= FLOOR
    assert bench.gap([*prefix, 9, 8], other) <= FLOOR


@pytest.mark.parametrize("level", [0, 1])
def test_asleep_and_awake(bench: Bench, level: int) -> None:
    """Level 0 pauses the scheduler; of level 1, vLLM's CPU worker says that it ignores it."""
    for scale in (None, 0.0):
        answer = bench.engine.ask("asleep", prompt=PROMPTS[1], level=level, scale=scale)
        gap = bench.gap(PROMPTS[1], answer)
        assert gap <= FLOOR if scale is None else gap > 1000 * FLOOR
    if level == 1:
        assert "sleep mode is not supported on CPU, ignore it" in bench.engine.log.read_text()


def test_fifty_weight_syncs_leave_weights_noise_and_memory_as_they_were(bench: Bench) -> None:
    """Bytes: 20 MB are left for the allocator; fifty copies of the model's weights are 50."""
    name = "model.layers.1.self_attn.qkv_proj.weight"
    bench.engine.ask("call", method="hetero_noise_step", arguments={"step": 4})
    digest = bench.engine.ask("weights", name=name)
    before = bench.engine.logprobs(*PROMPTS[:2])
    status = bench.engine.status()
    bench.engine.ask("continuation", prompt=PROMPTS[5], tokens=2)
    bench.engine.ask("sync", path=str(bench.model), times=10)
    (start,) = bench.engine.ask("resident")
    (end,) = bench.engine.ask("sync", path=str(bench.model), times=50)
    size = (bench.model / "model.safetensors").stat().st_size
    assert end - start < 20e6 < 50 * size, f"grew by {(end - start) / 1e6:.1f} MB"
    assert bench.engine.ask("weights", name=name) == digest
    assert bench.engine.status() == status
    assert status["sigma"] == pytest.approx(0.05) and status["step"] == 4
    assert bench.engine.logprobs(*PROMPTS[:2]) == before


def kernels(folder: Path) -> dict[Path, int]:
    """The compiled kernels in the cache, with when each was made."""
    cache = folder / "cache" / "torch_compile_cache" / "torch_aot_compile"
    return {path.relative_to(cache): path.stat().st_mtime_ns for path in cache.rglob("*.so")}


@pytest.mark.compat("compile cache")
def test_z_a_second_start_is_served_from_the_cache_and_another_spec_is_not(bench: Bench) -> None:
    """Last here, as it ends the engine that the others share: one engine at a time."""
    answers = bench.engine.logprobs(*PROMPTS[:2])
    bench.engine.close()
    first = kernels(bench.folder)
    assert len(first) > 5 and len({path.parts[0] for path in first}) == 1

    again = start(bench.folder, bench.model, SPEC, "again.log")
    try:
        assert again.logprobs(*PROMPTS[:2]) == answers
    finally:
        again.close()
    assert kernels(bench.folder) == first, "nothing is compiled, nothing is written over"

    other = start(bench.folder, bench.model, OTHER, "other.log")
    try:
        assert other.status()["sites"] == {"norm": 5, "lm_head": 1}
        yardstick = Yardstick(bench.model, OTHER)
        for prompt, answer in zip(PROMPTS, other.logprobs(*PROMPTS[:2]), strict=False):
            assert yardstick.gap(prompt[:1], prompt[1:], answer["prompt"]) <= FLOOR
    finally:
        other.close()
    both = kernels(bench.folder)
    assert first.items() < both.items()
    assert {path.parts[0] for path in both} - {path.parts[0] for path in first}, (
        "a graph of its own"
    )
