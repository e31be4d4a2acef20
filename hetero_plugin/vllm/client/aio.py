"""Talking to a running noisy `AsyncLLM`: the functions of `client`, as coroutines.

Example::

    from hetero_plugin.vllm.client import aio

    await aio.set_noise(engine, scale=0.1)
    print((await aio.status(engine))["scales"])
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from hetero_plugin.vllm.client import calls
from hetero_plugin.vllm.client.calls import EngineDied, agreed, data_parallel_size, engines_of

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient

Answer = TypeVar("Answer")
P = ParamSpec("P")
_LOOK_S = 0.2
"""How often a waiting call looks whether the engine lives, in seconds."""


async def watched(engine: EngineClient, method: str, work: Awaitable[Answer]) -> Answer:
    """Waits for ``work``, as long as the engine's process lives.

    vLLM leaves the answer that a caller waits for pending for ever when its engine is killed.

    Raises:
        EngineDied: the process ended first, or had ended before.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    resources = getattr(getattr(engine, "engine_core", None), "resources", None)
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOK_S)
            if not task.done() and getattr(resources, "engine_dead", False):
                raise EngineDied(method)
        return task.result()
    except EngineDeadError:
        raise EngineDied(method) from None
    finally:
        task.cancel()  # of one that is done, nothing


class Paused(RuntimeError):
    """Somebody else has paused the engine, and will want to resume it."""


async def to_the_end(work: Awaitable[Answer]) -> Answer:
    """Waits for ``work`` until it is done, also when the caller is cancelled meanwhile.

    Raises:
        CancelledError: the caller was cancelled; by then ``work`` is done.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # looked at, or asyncio warns of an exception that was never retrieved
        raise cancelled
    return task.result()


@asynccontextmanager
async def held(engine: EngineClient) -> AsyncIterator[None]:
    """Inside, no request runs: those that did have ended, and new ones wait. Then they go on.

    Whatever happens, the engine is resumed: after an error, and wherever the caller is cancelled.

    Raises:
        Paused: it was paused already, by another caller, who would not expect it to be resumed.
        EngineDied: the engine's process ended first.
    """
    asked = getattr(engine, "is_paused", None)
    if asked is not None and await watched(engine, "is_paused", asked()):
        raise Paused(
            "the engine is paused, and not by this setting: resume it first, or make the setting "
            "at once, without waiting"
        )
    work = engine.pause_generation(mode="wait", clear_cache=False)
    pause = asyncio.ensure_future(watched(engine, "pause_generation", work))
    try:
        await asyncio.wait({pause})
        pause.result()
        yield
    finally:
        await to_the_end(_resume(engine, pause))


async def _resume(engine: EngineClient, pause: asyncio.Future[None]) -> None:
    try:
        if data_parallel_size(engine) > 1:
            # Data-parallel engines refuse to resume before all of them have paused.
            await asyncio.wait({pause})
        await watched(engine, "resume_generation", engine.resume_generation())
    finally:
        pause.cancel()  # of one that is done, nothing
        await asyncio.gather(pause, return_exceptions=True)


async def call(engine: EngineClient, method: str, **arguments: Any) -> Any:
    """One worker call on every rank of every data-parallel engine; the answer of rank 0.

    Raises:
        RanksDisagree: some of them compute something else.
        EngineDied: the engine's process ended before it answered.
        ConfigError: it would change some data-parallel engines only.
    """
    engines = len(engines_of(engine, method))
    return agreed(method, await ranks(engine, method, **arguments), engines)


async def ranks(engine: EngineClient, method: str, **arguments: Any) -> list[Any]:
    """One worker call on every rank; all answers, engine after engine.

    Raises:
        EngineDied: the engine's process ended before it answered.
    """
    engines = engines_of(engine, "hetero_noise_status")
    if len(engines) < 2:
        work = engine.collective_rpc(method, kwargs=arguments)
        return list(await watched(engine, method, work))
    # vLLM asks all of them too, and returns the answers of the first engine alone.
    core: Any = getattr(engine, "engine_core")  # noqa: B009
    parts = [
        core._call_utility_async("collective_rpc", method, None, (), arguments, engine=one)
        for one in engines
    ]
    answers = await watched(engine, method, _gathered(parts))
    from hetero_plugin.vllm.serve import metrics

    metrics.update(method, answers)
    return answers


async def _gathered(parts: list[Awaitable[Any]]) -> list[Any]:
    return [answer for part in await asyncio.gather(*parts) for answer in part]


def _made(build: Callable[P, calls.Call]) -> Callable[Concatenate[EngineClient, P], Awaitable[Any]]:
    @functools.wraps(build)
    async def made(engine: EngineClient, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        method, arguments = build(*args, **kwargs)
        return await call(engine, method, **arguments)

    return made


status = _made(calls.status)
sites = _made(calls.sites)
set_noise = _made(calls.set_noise)
step = _made(calls.step)
aqn = _made(calls.aqn)
phase = _made(calls.phase)
