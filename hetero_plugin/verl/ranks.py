"""Every rank of every replica is asked, and what they say is compared.

A replica has tensor-parallel workers, data-parallel engines of such workers, and may span nodes.
vLLM's ``collective_rpc`` reaches them all and hands back the answers of the first engine; verl's
servers on further nodes have no engine at all, as the first node's speaks for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from hetero_plugin.config import ConfigError
from hetero_plugin.vllm.client.calls import agreed


def data_parallel(engine: Any) -> list[Any]:
    """The data-parallel engines that an ``AsyncLLM`` talks to, by identity; one without any."""
    return list(getattr(getattr(engine, "engine_core", None), "core_engines", None) or [None])


async def call(
    engine: Any, method: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> list[Any]:
    """A worker call on every rank of every data-parallel engine; an answer each, in order."""
    return [
        answer for answers in await by_engine(engine, method, args, kwargs) for answer in answers
    ]


async def by_engine(
    engine: Any, method: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> list[list[Any]]:
    """The same, the answers of each data-parallel engine apart.

    Raises:
        ConfigError: there are several, and this vLLM has no way to ask each.
    """
    engines = data_parallel(engine)
    if len(engines) == 1:
        return [list(await engine.collective_rpc(method=method, args=args, kwargs=kwargs))]
    core = engine.engine_core
    ask = getattr(core, "_call_utility_async", None)
    if ask is None:
        raise ConfigError(
            f"{method}: this vLLM's {type(core).__name__} can't ask its {len(engines)} "
            "data-parallel engines one by one; set actor_rollout_ref.rollout.data_parallel_size=1"
        )
    calls = [ask("collective_rpc", method, None, args, kwargs, engine=one) for one in engines]
    return [list(answers) for answers in await asyncio.gather(*calls)]


class OneEngine:
    """An ``AsyncLLM`` of which one data-parallel engine computes and answers; all are set.

    Args:
        engine: the ``AsyncLLM``.
        rank: of the data-parallel engine that requests go to.
    """

    def __init__(self, engine: Any, rank: int) -> None:
        self._engine, self._rank = engine, rank

    async def collective_rpc(self, method: str, kwargs: Mapping[str, Any] | None = None) -> Any:
        return (await by_engine(self._engine, method, kwargs=kwargs))[self._rank]

    async def generate(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        kwargs["data_parallel_rank"] = self._rank
        async for answer in self._engine.generate(*args, **kwargs):
            yield answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def compare(method: str, replies: Sequence[tuple[str, Sequence[Any], int]]) -> list[Any]:
    """All answers, if every rank gave one and they say the same.

    Args:
        method: the worker call.
        replies: (replica, its ranks' answers, how many ranks it has), for every replica.

    Raises:
        ConfigError: ranks are missing, or answered with no status.
        RanksDisagree: they differ; says which.
    """
    found: list[Any] = []
    for replica, answers, wanted in replies:
        if len(answers) != wanted:
            raise ConfigError(
                f"{method}: {len(answers)} of the {wanted} ranks of {replica} answered, so the "
                "rest may run with other noise, or none"
            )
        for rank, status in enumerate(answers):
            if not isinstance(status, Mapping):
                raise ConfigError(f"{method}: rank {rank} of {replica} returned {status!r}")
        found += answers
    agreed(method, found)
    return found
