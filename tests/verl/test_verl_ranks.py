"""Every rank of every engine is asked; one that is missing or differs ends the run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("vllm")

from hetero_plugin.config import ConfigError
from hetero_plugin.verl import ranks
from hetero_plugin.vllm.client.calls import RanksDisagree

ON = {"noisy": True, "step": 3, "enabled": True}


class Core:
    """vLLM's client of two data-parallel engines with two tensor-parallel ranks each."""

    core_engines = (b"\x00\x00", b"\x01\x00")

    def __init__(self, answers: dict[bytes, list[Any]]) -> None:
        self.answers = answers
        self.asked: list[tuple[Any, ...]] = []

    async def _call_utility_async(self, name: str, *args: Any, engine: bytes) -> list[Any]:
        self.asked.append((name, *args, engine))
        return self.answers[engine]


class Engine:
    def __init__(self, core: Core) -> None:
        self.engine_core = core
        self.requests: list[int] = []

    async def collective_rpc(self, method: str, args: Any = (), kwargs: Any = None) -> list[Any]:
        return self.engine_core.answers[b"\x00\x00"]  # as vLLM: the first engine's alone

    async def generate(self, prompt: str, *, data_parallel_rank: int) -> Any:
        self.requests.append(data_parallel_rank)
        yield prompt


def engine(second: Any) -> Engine:
    return Engine(Core({b"\x00\x00": [ON, ON], b"\x01\x00": second}))


def test_all_data_parallel_engines_answer() -> None:
    made = engine([ON, {**ON, "step": 2}])
    found = asyncio.run(ranks.call(made, "hetero_noise_step", kwargs={"step": 3}))
    assert [status["step"] for status in found] == [3, 3, 3, 2]
    assert [call[-1] for call in made.engine_core.asked] == [b"\x00\x00", b"\x01\x00"]
    assert made.engine_core.asked[0][:5] == (
        "collective_rpc", "hetero_noise_step", None, (), {"step": 3},
    )  # fmt: skip
    with pytest.raises(RanksDisagree, match="of 4 ranks, 3 answered otherwise"):
        ranks.compare("hetero_noise_step", [("replica 0", found, 4)])


def test_one_engine_is_asked_as_ever() -> None:
    made = engine([])
    made.engine_core.core_engines = (b"\x00\x00",)  # type: ignore[assignment]
    assert asyncio.run(ranks.call(made, "hetero_noise_status")) == [ON, ON]
    assert not made.engine_core.asked


def test_an_engine_that_cannot_be_asked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Core, "_call_utility_async")
    with pytest.raises(ConfigError, match="data_parallel_size=1"):
        asyncio.run(ranks.call(engine([ON, ON]), "hetero_noise_status"))


def test_one_engine_of_several_computes_and_answers_and_all_are_set() -> None:
    made = engine([{**ON, "step": 2}, ON])
    one = ranks.OneEngine(made, 1)

    async def go() -> tuple[list[Any], list[Any]]:
        answers = await one.collective_rpc("hetero_noise_set", kwargs={"scale": 0.0})
        return answers, [text async for text in one.generate("prompt")]

    answers, texts = asyncio.run(go())
    assert answers == [{**ON, "step": 2}, ON] and texts == ["prompt"]
    assert len(made.engine_core.asked) == 2 and made.requests == [1]
    assert one.engine_core is made.engine_core


def test_replicas_are_compared_with_each_other() -> None:
    same = [("replica 0", [ON, ON], 2), ("replica 1", [ON, ON], 2)]
    assert ranks.compare("m", same) == [ON] * 4
    other = {**ON, "enabled": False}
    with pytest.raises(RanksDisagree, match="2, 3 answered otherwise"):
        ranks.compare("m", [same[0], ("replica 1", [other, other], 2)])


def test_what_differs_by_nature_is_not_compared() -> None:
    answers = [{**ON, "rank": rank, "device": f"cuda:{rank}"} for rank in range(2)]
    assert ranks.compare("m", [("replica 0", answers, 2)]) == answers


@pytest.mark.parametrize("answers", [[], [ON], [ON, ON, ON]])
def test_ranks_are_counted(answers: list[Any]) -> None:
    with pytest.raises(ConfigError, match=f"{len(answers)} of the 2 ranks of replica 0"):
        ranks.compare("m", [("replica 0", answers, 2)])


@pytest.mark.parametrize("status", [None, "ok", 3])
def test_no_status_is_named(status: Any) -> None:
    with pytest.raises(ConfigError, match="rank 1 of replica 0 returned"):
        ranks.compare("m", [("replica 0", [ON, status], 2)])
