"""Talking to a running noisy `AsyncLLM`: the functions of `client`, as coroutines.

Example::

    from hetero_plugin.vllm import client_async

    await client_async.set_noise(engine, scale=0.1)
    print((await client_async.status(engine))["scales"])
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

from hetero_plugin.vllm.client import EngineDied, agreed

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient

Answer = TypeVar("Answer")
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


async def call(engine: EngineClient, method: str, **arguments: Any) -> Any:
    """One worker call on every rank; the answer of rank 0.

    Raises:
        RanksDisagree: some of them compute something else.
        EngineDied: the engine's process ended before it answered.
    """
    return agreed(method, await ranks(engine, method, **arguments))


async def ranks(engine: EngineClient, method: str, **arguments: Any) -> list[Any]:
    """One worker call on every rank; all answers.

    Raises:
        EngineDied: the engine's process ended before it answered.
    """
    return list(await watched(engine, method, engine.collective_rpc(method, kwargs=arguments)))


async def status(engine: EngineClient) -> dict[str, Any]:
    """Sites, scales, step, σ and spec in force; ``{"noisy": False, ...}`` from a clean engine."""
    return await call(engine, "hetero_noise_status")


async def sites(engine: EngineClient) -> list[dict[str, Any]]:
    """The selected sites, with the scales in force."""
    return await call(engine, "hetero_noise_sites")


async def set_noise(
    engine: EngineClient,
    scale: float | None = None,
    *,
    kind: str | None = None,
    site: str | None = None,
    enabled: bool | None = None,
    reset: bool = False,
    aqn_enabled: bool | None = None,
) -> dict[str, Any]:
    """Changes or switches noise; see `hetero_plugin.vllm.control.hetero_noise_set`."""
    return await call(
        engine,
        "hetero_noise_set",
        scale=scale,
        kind=kind,
        site=site,
        enabled=enabled,
        reset=reset,
        aqn_enabled=aqn_enabled,
    )


async def step(engine: EngineClient, n: int, *, aqn: bool = True) -> dict[str, Any]:
    """Sets the noise step and, where the spec has AQN and ``aqn`` is true, its σ and z."""
    return await call(engine, "hetero_noise_step", step=n, aqn=aqn)


async def aqn(engine: EngineClient, n: int | None = None, *, off: bool = False) -> dict[str, Any]:
    """AQN alone: σ and z of step ``n``, or off."""
    return await call(engine, "hetero_noise_aqn", step=n, off=off)


async def phase(engine: EngineClient, name: str | None) -> dict[str, Any]:
    """Says what the engine is doing: ``rollout`` or ``train``."""
    return await call(engine, "hetero_noise_phase", phase=name)
