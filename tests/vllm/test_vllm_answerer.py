"""What evaluation asks of a vLLM engine, with real worker calls and no engine. About 3 s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hetero_plugin.config import NoiseConfig
from hetero_plugin.evaluation import engines
from hetero_plugin.evaluation.answers.answerer import EngineAnswerer, require_level
from hetero_plugin.evaluation.answers.settings import Case, Settings
from hetero_plugin.evaluation.fidelity.table import EngineTable
from hetero_plugin.vllm.serve import control
from tests.vllm.stand_in import CALLS, worker

pytest.importorskip("vllm", reason="vLLM is not installed")
SPEC = {
    "rules": [
        {"targets": ["linear"], "scale": 0.1},
        {"error": "relative_uniform", "targets": ["linear", "norm"], "scale": 0.1},
    ]
}


class LLM:
    """An engine of one worker, whose answers tell what it was asked and under which scales."""

    def __init__(self) -> None:
        self.worker = worker(SPEC)
        self.forgotten = 0
        self.batches: list[list[int]] = []
        self.llm_engine = SimpleNamespace(
            vllm_config=SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=8)),
            engine_core=None,
        )

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> list[Any]:
        return [CALLS[method](self.worker, **kwargs)]

    def reset_prefix_cache(self) -> None:
        self.forgotten += 1

    def generate(
        self, requests: Sequence[Any], parameters: Sequence[Any], use_tqdm: bool
    ) -> list[Any]:
        self.batches.append([request["prompt_token_ids"][0] for request in requests])
        answers = []
        for request, own in zip(requests, parameters, strict=True):
            first = request["prompt_token_ids"][0]
            output = SimpleNamespace(
                text=f"{first} seed {own.seed}",
                token_ids=[5, 6],
                finish_reason="length" if first == 3 else "stop",
                logprobs=[{5: SimpleNamespace(logprob=-1.0)}, {6: SimpleNamespace(logprob=-2.0)}],
            )
            answers.append(SimpleNamespace(outputs=[output]))
        return answers


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> LLM:
    made = LLM()
    monkeypatch.setattr(engines, "start", lambda *_: made)
    return made


def answerer(**settings: Any) -> EngineAnswerer:
    hf = {"num_attention_heads": 4, "hidden_size": 32, "num_hidden_layers": 1}
    return EngineAnswerer(
        NoiseConfig.parse(SPEC), Path(), hf, Settings(**settings), longest=64, max_tokens=2, n=10
    )


def test_one_case_at_a_time_is_on(llm: LLM) -> None:
    asked = answerer(step=3, draws=4)
    config = NoiseConfig.parse(SPEC)
    cases = [Case(str(rule), config, (rule,), Path()) for rule in (0, 1)]
    both = Case("both", config, (0, 1), Path())
    for number, case in enumerate((*cases, both)):
        asked.set(0.5, case.rules, draw=2)
        assert require_level(asked.scales(), case, 0.5) == {"min": 0.5, "max": 0.5}
        assert llm.worker.hetero_noise.state.step == 5 and llm.forgotten == number + 1
    asked.set(0.5, (1,), draw=0)
    with pytest.raises(RuntimeError, match=r"level 0\.5 was set for rule 0"):
        require_level(asked.scales(), cases[0], 0.5)
    control.hetero_noise_set(llm.worker, scale=0.1, rule=0)  # the other is not clean
    with pytest.raises(RuntimeError, match=r"level 0 was set for rule 0"):
        require_level(asked.scales(), cases[1], 0.5)


def test_answers_are_in_the_order_of_the_questions(llm: LLM) -> None:
    prompts = [[i, 1, 2] for i in range(10)]
    told: list[int] = []
    found = answerer().answer(prompts, 0, told.append)
    assert found.texts == [f"{i} seed None" for i in range(10)] and told == [10]
    assert found.cut == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0] and found.tokens == [2] * 10
    assert sum(found.logprobs) == -30.0
    again = answerer().answer(prompts, 0, told.append, control=True)
    assert again.texts == found.texts
    assert llm.batches[1:] == [[9, 8], [7, 6], [5, 4], [3, 2], [1, 0]], "back to front, smaller"


def test_samples_have_random_numbers_of_their_own(llm: LLM) -> None:
    asked = answerer(temperature=0.7, samples=2)
    texts = [
        asked.answer([[i] for i in range(4)], sample, lambda _: None).texts for sample in (0, 1)
    ]
    assert len({text.partition("seed ")[2] for one in texts for text in one}) == 8
    assert texts[0] == asked.answer([[i] for i in range(4)], 0, lambda _: None).texts


def test_the_table_of_an_engine(llm: LLM) -> None:
    state = llm.worker.hetero_noise.state
    table = EngineTable(llm, [chosen.site for chosen in state.selected])  # type: ignore[arg-type]
    names = [site.name for site in table.sites]

    def on() -> set[str]:
        found = control.hetero_noise_sites(llm.worker)
        return {site["name"] for site in found if any(site["scales"])}

    assert on() == set(names)
    for wanted in (names[:1], names[1:3], names[1:], [], names):
        table.only(wanted)
        assert on() == set(wanted)
    table.only(names[:2])
    table.clean(True)
    assert on() == set()
    table.clean(False)
    assert on() == set(names[:2])
    table.draw(7)
    assert state.step == 7
    table.restore()
    assert on() == set(names) and state.step == 0
    table.scale(0.25)
    assert {s for site in control.hetero_noise_sites(llm.worker) for s in site["scales"]} == {0.25}
