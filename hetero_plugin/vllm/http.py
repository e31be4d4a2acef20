"""``/v1/hetero_noise``: reading and changing the noise of a running server over HTTP.

An entry point of ``vllm.endpoint_plugins`` with a name of its own, so it is off unless
``VLLM_PLUGINS`` names ``hetero_noise_http``. As the path begins with /v1, ``--api-key`` guards it.
"""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hetero_plugin.vllm import client_async, startup
from hetero_plugin.vllm.client import EngineDied, RanksDisagree

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.datastructures import State
    from vllm.engine.protocol import EngineClient

PATH = "/v1/hetero_noise"


class Refused(ValueError):
    """A change that can't be made; the text says why."""


class Change(BaseModel):
    """The body of a POST."""

    model_config = ConfigDict(extra="forbid", strict=True)

    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    kind: str | None = None
    site: str | None = None
    enabled: bool | None = None
    reset: bool = False
    """First back to the scales of the spec."""
    step: Annotated[int, Field(ge=0)] | None = None
    """Noise step, and AQN's where the spec has AQN."""
    wait: bool = True
    """Let the running requests finish first, and hold new ones meanwhile; so no response mixes two
    settings. False: at once; running requests go on under the new setting."""


def parse(body: bytes) -> Change:
    """The change that a request's body asks for.

    Raises:
        Refused: no JSON object, an unknown key, a bad value, or nothing to do.
    """
    try:
        given = json.loads(body or b"null")
    except ValueError as error:
        raise Refused(f"the body is no JSON: {error}") from None
    if not isinstance(given, dict):
        raise Refused(f'the body is {given!r}; it should be an object such as {{"scale": 0.05}}')
    try:
        change = Change(**given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(Change.model_fields)
        raise Refused(f"{where}: {first['msg']}, got {first['input']!r}. Keys: {known}") from None
    if change.scale is None and change.enabled is None and not change.reset and change.step is None:
        raise Refused("nothing to do: give scale, enabled, reset or step")
    if change.scale is None and change.enabled is None and (change.kind or change.site):
        raise Refused("kind and site say what scale or enabled apply to; give one of these")
    return change


def check(change: Change, sites: list[dict[str, Any]]) -> None:
    """Refuses a kind or site that the engine does not have, before any worker is asked.

    Args:
        sites: the answer of ``hetero_noise_sites``.
    """
    hit = [
        site
        for site in sites
        if change.kind in (None, site["kind"]) and change.site in (None, site["name"])
    ]
    if not hit:
        kinds = sorted({site["kind"] for site in sites})
        wanted = {k: v for k, v in (("kind", change.kind), ("site", change.site)) if v is not None}
        raise Refused(f"no noisy site matches {wanted}; kinds of this engine: {', '.join(kinds)}")


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

    def attach_router(self, app: FastAPI) -> None:
        """Adds GET and POST."""
        from fastapi import HTTPException, Request

        async def answer(work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
            try:
                return await work
            except Refused as error:
                raise HTTPException(422, str(error)) from None
            except RanksDisagree as error:
                raise HTTPException(500, str(error)) from None
            except EngineDied as error:
                raise HTTPException(503, str(error)) from None

        async def get(sites: bool = False, attestation: bool = False) -> dict[str, Any]:
            return await answer(self._status(sites, attestation))

        async def post(request: Request) -> dict[str, Any]:
            body = await request.body()
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
        return await client_async.call(self._engine, method, **arguments)

    async def _status(self, sites: bool = False, attestation: bool = False) -> dict[str, Any]:
        status = await self._ask("hetero_noise_status")
        status["attestation"] = startup.shown(whole=attestation)
        if sites and status["noisy"]:
            status["site_list"] = await self._ask("hetero_noise_sites")
        return status

    async def _change(self, change: Change) -> dict[str, Any]:
        async with self._lock:  # two clients' changes come one after the other
            if not (await self._ask("hetero_noise_status"))["noisy"]:
                raise Refused("this engine is not noisy: start it with --hetero-noise-scale")
            check(change, await self._ask("hetero_noise_sites"))
            if not change.wait:
                return await self._apply(change)
            pause = self._engine.pause_generation(mode="wait", clear_cache=False)
            await client_async.watched(self._engine, "pause_generation", pause)
            try:
                return await self._apply(change)
            finally:
                resume = self._engine.resume_generation()
                await client_async.watched(self._engine, "resume_generation", resume)

    async def _apply(self, change: Change) -> dict[str, Any]:
        if change.step is not None:
            await self._ask("hetero_noise_step", step=change.step)
        if change.scale is not None or change.enabled is not None or change.reset:
            arguments = change.model_dump(exclude={"step", "wait"})
            await self._ask("hetero_noise_set", **arguments)
        return await self._status()
