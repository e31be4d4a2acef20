"""What users of ``/v1/hetero_noise`` reported, tried over real connections as they would.

A server of uvicorn's with vLLM's own authentication; behind the route are real settings and no
model. tests/engines/test_vllm_serve.py has the same of `vllm serve`.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines.cancelling import CancelOnDisconnect
from tests.vllm.stand_in import StandIn, app_of

KEY = "a-key-of-this-test"


@dataclass
class Site:
    engine: StandIn
    port: int

    def ask(
        self,
        body: bytes | None = None,
        key: str | None = KEY,
        content_type: str = "application/json",
    ) -> tuple[int, Any]:
        headers = {} if body is None else {"Content-Type": content_type}
        headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{self.port}/v1/hetero_noise"
        try:
            request = urllib.request.Request(url, body, headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    import uvicorn
    from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

    engine = StandIn()
    app = app_of(engine, api_key=[KEY])
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(AuthenticationMiddleware, tokens=[KEY])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.started
    yield Site(engine, port)
    server.should_exit = True
    thread.join(30)


@pytest.mark.parametrize(
    "body", [b'{"scale": 1e39}', b'{"aqn": {"sigma": 1e300}}', b'{"scale": 1e-300}', b"[" * 50_000]
)
def test_a_number_that_float32_does_not_hold_leaves_the_status_readable(
    site: Site, body: bytes
) -> None:
    """It was set, the table held infinity, and every GET was a 500 until somebody reset it."""
    before = site.ask()[1]
    assert site.ask(body)[0] == 422
    code, after = site.ask()
    assert code == 200 and after["scales"] == before["scales"] and after["sigma"] == before["sigma"]


def test_off_is_off(site: Site) -> None:
    """`enabled: false` left AQN's offsets on, and no key reached them."""
    offsets: Any = site.engine.state.aqn
    assert site.ask(b'{"aqn": {"sigma": 0.25}, "step": 3}')[1]["sigma"] == 0.25
    assert offsets.offsets.any()
    for off, on in (
        (b'{"enabled": false}', b'{"enabled": true}'),
        (b'{"aqn": {"enabled": false}}', b'{"aqn": {"enabled": true}}'),
    ):
        assert site.ask(off)[1]["aqn_enabled"] is False and not offsets.offsets.any()
        assert site.ask(on)[1]["aqn_enabled"] is True and offsets.offsets.any()


def test_a_client_that_goes_away_does_not_leave_the_engine_paused(site: Site) -> None:
    """Requests run, so the pause waits; the client's time is up, and its connection ends."""
    import asyncio

    before = site.ask()[1]["step"]
    site.engine.busy = asyncio.Event()  # never set
    body = b'{"step": 77}'
    head = (
        f"POST /v1/hetero_noise HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", site.port)) as client:
        client.sendall(head.encode() + body)
        assert _soon(lambda: site.engine.paused), "the pause must wait for this to count"
    assert _soon(lambda: not site.engine.paused)
    site.engine.busy = None
    assert site.ask()[1]["step"] == before
    assert site.ask(b'{"step": 5}')[1]["step"] == 5, "and the next setting is made"


def _soon(true: Any) -> bool:
    deadline = time.monotonic() + 20
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(true())


def test_whoever_has_no_key_or_sends_a_form_changes_nothing(site: Site) -> None:
    before = site.engine.settings()
    for key in (None, "", "another"):
        assert site.ask(key=key)[0] == site.ask(b'{"scale": 0.9}', key=key)[0] == 401
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert site.ask(b'{"scale": 0.9}', content_type=kind)[0] == 415
    assert site.engine.settings() == before
    assert site.ask(b'{"scale": 0.9}')[0] == 200 and site.engine.settings() != before


def test_a_server_of_two_data_parallel_engines_speaks_for_both() -> None:
    """vLLM asks both and returns what the first one says; the other had lost its noise."""
    import asyncio

    from hetero_plugin.vllm.client import aio
    from hetero_plugin.vllm.client.calls import RanksDisagree
    from tests.faults.http_second import _engines

    engine = _engines(2)
    assert asyncio.run(aio.status(engine))["noisy"]
    engine.second.workers[0].hetero_noise.state.set_scale(0.0, kind="norm")
    with pytest.raises(RanksDisagree, match="engine 1"):
        asyncio.run(aio.status(engine))
