"""``/v1/hetero_noise``: reading and changing the noise of a running server over HTTP.

An entry point of ``vllm.endpoint_plugins`` with a name of its own, so it is off unless
``VLLM_PLUGINS`` names ``hetero_noise_http``. As the path begins with /v1, ``--api-key`` guards it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from argparse import Namespace
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from hetero_plugin.config import ConfigError
from hetero_plugin.vllm.client import aio
from hetero_plugin.vllm.client.calls import EngineDied, RanksDisagree, engines_of
from hetero_plugin.vllm.serve import self_attest
from hetero_plugin.vllm.serve.body import MOST_BYTES, Change, Refused, check, parse

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from starlette.datastructures import State
    from vllm.engine.protocol import EngineClient

__all__ = ["PATH", "Change", "Endpoint", "Refused", "check", "parse"]

PATH = "/v1/hetero_noise"
logger = logging.getLogger("vllm.hetero_noise")


class Endpoint:
    """The plugin that vLLM's server loads."""

    name = "hetero_noise_http"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._engine: Any = None
        self._lock = asyncio.Lock()

    async def init_state(
        self, engine_client: EngineClient | None, state: State, args: Namespace
    ) -> None:
        """Takes the engine to ask; there is none in a render server."""
        self._engine = engine_client
        # As vLLM reads them: the argument, and the variable where there is none.
        keys = getattr(args, "api_key", None) or [os.environ.get("VLLM_API_KEY")]
        if not any(keys):
            logger.warning(
                "hetero_noise: %s is open: without --api-key, whoever reaches this port can change "
                "the noise of every answer",
                PATH,
            )

    def attach_router(self, app: FastAPI) -> None:
        """Adds GET and POST."""
        from fastapi import HTTPException, Request

        async def answer(work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
            try:
                return await work
            except (Refused, ConfigError) as error:
                raise HTTPException(422, str(error)) from None
            except aio.Paused as error:
                raise HTTPException(409, f'{error}: {{"wait": false}}') from None
            except RanksDisagree as error:
                raise HTTPException(500, str(error)) from None
            except EngineDied as error:
                raise HTTPException(503, str(error)) from None

        async def get(sites: bool = False, attestation: bool = False) -> dict[str, Any]:
            return await answer(self._status(sites, attestation))

        async def post(request: Request) -> dict[str, Any]:
            # JSON by name: a page of another site can't have a browser send that unasked.
            kind = request.headers.get("content-type", "")
            if kind.partition(";")[0].strip().lower() != "application/json":
                raise HTTPException(415, "send JSON: Content-Type: application/json")
            body = await _read(request)
            if body is None:
                raise HTTPException(413, f"the body is longer than {MOST_BYTES} bytes")
            try:
                change = parse(body)
            except Refused as error:
                raise HTTPException(422, str(error)) from None
            return await answer(self._change(change))

        # The module's annotations are text, which FastAPI could not look up inside this function.
        get.__annotations__ = {"sites": bool, "attestation": bool}
        post.__annotations__ = {"request": Request}
        app.get(PATH)(get)
        app.post(PATH)(post)

    async def _ask(self, method: str, **arguments: Any) -> Any:
        if self._engine is None:
            raise Refused("this server has no engine")
        return await aio.call(self._engine, method, **arguments)

    async def _status(self, sites: bool = False, attestation: bool = False) -> dict[str, Any]:
        status = await self._ask("hetero_noise_status")
        status["attestation"] = self_attest.shown(whole=attestation)
        if sites and status["noisy"]:
            status["site_list"] = await self._ask("hetero_noise_sites")
        return status

    async def _change(self, change: Change) -> dict[str, Any]:
        async with self._lock:  # two clients' changes come one after the other
            if not (await self._ask("hetero_noise_status"))["noisy"]:
                raise Refused("this engine is not noisy: start it with --hetero-noise-scale")
            check(change, await self._ask("hetero_noise_sites"))
            engines_of(self._engine, "hetero_noise_change")  # may refuse, before anything is paused
            if not change.wait:
                return await aio.to_the_end(self._apply(change))
            async with aio.held(self._engine):
                return await aio.to_the_end(self._apply(change))

    async def _apply(self, change: Change) -> dict[str, Any]:
        status = await self._ask("hetero_noise_change", **change.arguments)
        if "refused" in status:
            raise Refused(status["refused"])
        status["attestation"] = self_attest.shown()
        return status


async def _read(request: Request) -> bytes | None:
    """The body, or None as soon as it is longer than `MOST_BYTES`."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)
