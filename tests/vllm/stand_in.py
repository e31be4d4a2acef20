"""What stands behind the endpoint in tests without an engine: real settings, real worker calls.

Only the model and the way between the processes are missing; what goes that way is encoded as vLLM
does it, so that what can't be sent fails here too.
"""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import msgspec

from hetero_plugin.aqn import AQNController
from hetero_plugin.config import NoiseConfig
from hetero_plugin.sites import sites_from_config
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm import client
from hetero_plugin.vllm.install import Installed
from hetero_plugin.vllm.serve import control

SITES = sites_from_config(
    {
        "model_type": "qwen2",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 64,
    }
)
AQN = {"schedule": "constant", "sigma_start": 0.125}
SPEC: dict[str, Any] = {"rules": [{"targets": ["linear", "norm"], "scale": 0.05}], "aqn": AQN}
CALLS = {call.__name__: call for call in control.CALLS}


def worker(spec: dict[str, Any] | None = None, rank: int = 0) -> Any:
    """A worker whose model's noise has been installed; there is no model."""
    config = NoiseConfig.parse(SPEC if spec is None else spec)
    state = NoiseState(config, SITES)
    aqn = None if config.aqn is None else AQNController(config.aqn, state.attach_aqn())
    rows: Any = None
    return SimpleNamespace(rank=rank, hetero_noise=Installed(config, state, rows, aqn))


class StandIn:
    """An `AsyncLLM` of these workers: it can be asked, paused and resumed."""

    def __init__(self, *workers: Any) -> None:
        self.workers = workers or (worker(),)
        self.paused = False
        self.history: list[str] = []
        self.busy: asyncio.Event | None = None
        """Requests that run: a pause waits until it is set."""

    async def collective_rpc(
        self, method: str, timeout: float | None = None, args: Any = (), kwargs: Any = None
    ) -> list[Any]:
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(kwargs or {}))
        await asyncio.sleep(0)
        if method not in client.READ_ONLY:
            self.history.append(f"{method}{' paused' if self.paused else ''}")
        answers = [CALLS[method](one, **sent) for one in self.workers]
        await asyncio.sleep(0)
        return msgspec.msgpack.decode(msgspec.msgpack.encode(answers))

    async def pause_generation(self, *, mode: str = "abort", clear_cache: bool = True) -> None:
        assert mode == "wait" and not clear_cache
        self.history.append("pause")
        await asyncio.sleep(0)
        self.paused = True  # in the engine: the answer comes later, or never
        if self.busy is not None:
            await self.busy.wait()
        await asyncio.sleep(0)

    async def resume_generation(self) -> None:
        await asyncio.sleep(0)
        self.history.append("resume")
        self.paused = False
        await asyncio.sleep(0)

    async def is_paused(self) -> bool:
        await asyncio.sleep(0)
        return self.paused

    @property
    def state(self) -> NoiseState:
        return self.workers[0].hetero_noise.state

    def settings(self) -> str:
        """Everything that a request could have changed."""
        state = self.state
        found = control.hetero_noise_status(self.workers[0])
        return json.dumps([found, state.scales.tolist(), state._base, state._on], allow_nan=False)


def app_of(engine: Any, **arguments: Any) -> Any:
    """The application of a server with the endpoint, and vLLM's way to answer errors."""
    from fastapi import FastAPI
    from vllm.entrypoints.serve.exception_handling.register import init_exception_handler

    from hetero_plugin.vllm.serve.http import Endpoint

    app, endpoint = FastAPI(), Endpoint()
    app.state.args = SimpleNamespace(log_error_stack=False, **arguments)
    endpoint.attach_router(app)
    init_exception_handler(app)
    asyncio.run(endpoint.init_state(engine, app.state, app.state.args))
    return app


async def ask(
    app: Any,
    body: bytes | list[bytes] | None = None,
    *,
    content_type: str | None = "application/json",
    query: bytes = b"",
) -> tuple[int, str]:
    """A GET, or a POST if there is a body (in pieces, if it is a list): status and text."""
    pieces = [b""] if body is None else [body] if isinstance(body, bytes) else list(body)
    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    scope = {
        "type": "http",
        "method": "GET" if body is None else "POST",
        "path": "/v1/hetero_noise",
        "raw_path": b"/v1/hetero_noise",
        "root_path": "",
        "query_string": query,
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not pieces:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    try:
        await app(scope, receive, send)
    except Exception:
        if not sent:  # else: the server's log has it, and the client a 500
            raise
    text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
    return sent[0]["status"], text
