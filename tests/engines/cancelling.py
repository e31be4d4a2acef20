"""A middleware as servers have them: it cancels the work of a client that has gone away."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

WORDS = "test middleware: the client went away, its request is cancelled"


class CancelOnDisconnect:
    """For the noise endpoint alone, so that vLLM's own requests are treated as ever."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/v1/hetero_noise":
            await self.app(scope, receive, send)
            return
        messages: asyncio.Queue[Any] = asyncio.Queue()
        work = asyncio.ensure_future(self.app(scope, messages.get, send))

        async def listen() -> None:
            while True:
                message = await receive()
                await messages.put(message)
                if message["type"] == "http.disconnect":
                    if not work.done():
                        print(WORDS, file=sys.stderr, flush=True)
                        work.cancel()
                    return

        listener = asyncio.ensure_future(listen())
        try:
            await asyncio.wait({work})
            if not work.cancelled():
                work.result()
        finally:
            listener.cancel()
