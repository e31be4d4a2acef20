"""The two ways in which a probe speaks to an engine, with engines made of a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from hetero_plugin.vllm.probe.transports import OfAsyncLLM, OfLLM, Transport

PROMPTS = [[1, 2, 3], [4, 5, 6]]


def answer(prompt: dict[str, Any], how: Any, stage: str = "final") -> Any:
    return SimpleNamespace(ids=prompt["prompt_token_ids"], how=how, stage=stage)


class Direct:
    """An ``LLM``."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.llm_engine = SimpleNamespace(get_supported_tasks=lambda: ("embed",))

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> list[Any]:
        return [(method, kwargs, rank) for rank in range(2)]

    def reset_prefix_cache(self) -> None:
        self.calls.append("reset")

    def generate(self, requests: Any, how: Any, *, use_tqdm: bool, lora_request: Any) -> list[Any]:
        return [answer(one, (how, lora_request)) for one in requests]

    def encode(
        self, requests: Any, *, pooling_task: str, use_tqdm: bool, lora_request: Any
    ) -> list[Any]:
        return [answer(one, (pooling_task, lora_request)) for one in requests]


class Served:
    """An ``AsyncLLM``, whose answers come in stages."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.running = self.most = 0
        self.names: set[str] = set()

    async def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> list[Any]:
        return [(method, kwargs, rank) for rank in range(2)]

    async def reset_prefix_cache(self) -> None:
        self.calls.append("reset")

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("embed",)

    async def generate(
        self, prompt: Any, how: Any, name: str, *, lora_request: Any
    ) -> AsyncIterator[Any]:
        self.names.add(name)
        self.running += 1
        self.most = max(self.most, self.running)
        yield answer(prompt, (how, lora_request), "first")
        await asyncio.sleep(0)
        yield answer(prompt, (how, lora_request))
        self.running -= 1

    async def encode(
        self, prompt: Any, parameters: Any, name: str, *, lora_request: Any
    ) -> AsyncIterator[Any]:
        yield answer(prompt, (parameters.task, lora_request))


def asked(transport: Transport) -> list[Any]:
    """Everything that a probe asks for, in data that compare."""
    transport.forget()
    parameters: Any = "parameters"
    answers = [*transport.generated(PROMPTS, parameters), *transport.pooled(PROMPTS, "embed")]
    found: list[Any] = [(one.ids, one.how, one.stage) for one in answers]
    return [transport.ranks("status", rows=3), list(transport.tasks()), *found]


async def whole(served: Any, adapter: Any = None) -> list[Any]:
    transport = OfAsyncLLM(served, asyncio.get_running_loop(), adapter)
    return await asyncio.to_thread(asked, transport)


def test_both_ask_the_same_and_take_the_last_stage_of_each_answer() -> None:
    direct, served = Direct(), Served()
    llm: Any = direct
    one, other = asked(OfLLM(llm)), asyncio.run(whole(served))
    assert one == other
    assert one[0] == [("status", {"rows": 3}, 0), ("status", {"rows": 3}, 1)]
    assert [found[0] for found in one[2:]] == PROMPTS * 2
    assert direct.calls == served.calls == ["reset"]
    assert served.most == 1 and len(served.names) == 2  # one after the other, each by its name


def test_an_adapter_is_that_of_every_prompt() -> None:
    llm: Any = Direct()
    adapter: Any = "adapter"
    for found in (asked(OfLLM(llm, adapter)), asyncio.run(whole(Served(), adapter))):
        assert all(row[1][1] == "adapter" for row in found[2:])
