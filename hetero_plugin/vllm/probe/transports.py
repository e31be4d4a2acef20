"""The two ways in which a probe speaks to an engine: by calls, or by awaiting on its event loop."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from hetero_plugin.vllm.client import aio, sync

if TYPE_CHECKING:
    from vllm import LLM, PoolingRequestOutput, RequestOutput, SamplingParams
    from vllm.engine.protocol import EngineClient
    from vllm.lora.request import LoRARequest
    from vllm.tasks import PoolingTask

Prompts = Sequence[Sequence[int]]
"""Prompts as token ids."""
Answer = TypeVar("Answer")


class Transport(Protocol):
    """What a probe asks of an engine. Each call returns when the engine has answered.

    Raises:
        EngineDied: the engine's process ended before it answered.
    """

    def ranks(self, method: str, **arguments: Any) -> list[Any]:
        """A worker call on every rank; one answer a rank."""

    def forget(self) -> None:
        """Drops the prefix cache, whose keys and values belong to an earlier setting."""

    def tasks(self) -> Sequence[str]:
        """What a pooling engine can be asked for."""

    def generated(self, prompts: Prompts, parameters: SamplingParams) -> Sequence[RequestOutput]:
        """The answers of an engine that generates, in order."""

    def pooled(self, prompts: Prompts, task: PoolingTask) -> Sequence[PoolingRequestOutput]:
        """The answers of an engine that pools, in order."""


class OfLLM:
    """The transport of an ``LLM``, which answers all prompts of a call as one batch.

    Args:
        llm: the engine.
        adapter: a LoRA request, for all prompts.
    """

    def __init__(self, llm: LLM, adapter: LoRARequest | None = None) -> None:
        self._llm = llm
        self._adapter = adapter

    def ranks(self, method: str, **arguments: Any) -> list[Any]:
        return sync.ranks(self._llm, method, **arguments)

    def forget(self) -> None:
        self._llm.reset_prefix_cache()

    def tasks(self) -> Sequence[str]:
        return self._llm.llm_engine.get_supported_tasks()

    def generated(self, prompts: Prompts, parameters: SamplingParams) -> Sequence[RequestOutput]:
        return self._llm.generate(
            _requests(prompts), parameters, use_tqdm=False, lora_request=self._adapter
        )

    def pooled(self, prompts: Prompts, task: PoolingTask) -> Sequence[PoolingRequestOutput]:
        return self._llm.encode(
            _requests(prompts), pooling_task=task, use_tqdm=False, lora_request=self._adapter
        )


class OfAsyncLLM:
    """The transport of an ``AsyncLLM``, from another thread than that of its event loop.

    It answers one prompt after the other: together they would be batched as they happen to arrive,
    and the size of a batch shows in the last bits, which two passes of one setting must have alike.

    Args:
        engine: the engine.
        loop: the event loop that it lives on.
        adapter: a LoRA request, for all prompts.
    """

    def __init__(
        self,
        engine: EngineClient,
        loop: asyncio.AbstractEventLoop,
        adapter: LoRARequest | None = None,
    ) -> None:
        self._engine = engine
        self._loop = loop
        self._adapter = adapter

    def _wait(self, what: str, work: Awaitable[Answer]) -> Answer:
        watched = aio.watched(self._engine, what, work)
        return asyncio.run_coroutine_threadsafe(watched, self._loop).result()

    def ranks(self, method: str, **arguments: Any) -> list[Any]:
        work: Awaitable[Any] = self._engine.collective_rpc(method, kwargs=arguments)
        return list(self._wait(method, work))

    def forget(self) -> None:
        self._wait("reset_prefix_cache", self._engine.reset_prefix_cache())

    def tasks(self) -> Sequence[str]:
        return self._wait("get_supported_tasks", self._engine.get_supported_tasks())

    def generated(self, prompts: Prompts, parameters: SamplingParams) -> Sequence[RequestOutput]:
        return [
            self._last(
                self._engine.generate(request, parameters, _name(), lora_request=self._adapter)
            )
            for request in _requests(prompts)
        ]

    def pooled(self, prompts: Prompts, task: PoolingTask) -> Sequence[PoolingRequestOutput]:
        from vllm import PoolingParams

        parameters = PoolingParams(task=task)
        return [
            self._last(
                self._engine.encode(request, parameters, _name(), lora_request=self._adapter)
            )
            for request in _requests(prompts)
        ]

    def _last(self, answers: AsyncGenerator[Answer, None]) -> Answer:
        """The final one of an answer's stages."""
        return self._wait("a probe's prompt", _last(answers))


async def _last(answers: AsyncGenerator[Answer, None]) -> Answer:
    final = [answer async for answer in answers]
    return final[-1]


def _requests(prompts: Prompts) -> list[Any]:
    return [{"prompt_token_ids": list(prompt)} for prompt in prompts]


def _name() -> str:
    return f"hetero-noise-attest-{uuid.uuid4().hex}"
