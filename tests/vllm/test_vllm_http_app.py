"""The endpoint's route with everything behind it but an engine: what it answers and leaves."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from hetero_plugin.vllm import client
from hetero_plugin.vllm.client import aio
from hetero_plugin.vllm.serve.body import MOST_BYTES
from hetero_plugin.vllm.serve.http import Endpoint
from tests.compat import needs_endpoint
from tests.vllm.stand_in import SPEC, StandIn, app_of, ask, worker

pytestmark = needs_endpoint()


def post(engine: StandIn, body: bytes | list[bytes] | dict[str, Any], **more: Any) -> Any:
    given = json.dumps(body).encode() if isinstance(body, dict) else body
    status, text = asyncio.run(ask(app_of(engine), given, **more))
    return status, json.loads(text) if status == 200 else text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"scale": 1e39}', "infinite in the float32"),
        (b'{"scale": 3.41e38}', "infinite in the float32"),
        (b'{"scale": 1e-46}', "0 in the float32"),
        (b'{"scale": 5e-324}', "0 in the float32"),
        (b'{"scale": ' + b"9" * 400 + b"}", "valid number"),
        (b'{"scale": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"scale": -1e39}', "greater than or equal to 0"),
        (b'{"aqn": {"sigma": 1e39}}', "infinite in the float32"),
        (b'{"aqn": {"sigma": NaN}}', "finite number"),
        (b'{"aqn": {"sgima": 0.1}}', "aqn.sgima"),
        (b'{"aqn": {}}', "nothing to do"),
        (b'{"aqn": {"enabled": 0}}', "aqn.enabled"),
        (b'{"step": 9223372036854775808}', "less than"),
        (b'{"step": -1}', "greater than"),
        (b'{"scale": 0.1, "scale": 0.2}', "given twice"),
        (b'{"aqn": {"step": 1, "step": 2}}', "given twice"),
        (b'{"scale": 0.1, "site": "\\ud800"}', "no noisy site"),
        (b'{"\\ud800": 1}', "unicode"),
        (b'{"sc\\u0000ale": 1}', "Extra"),
        (b'{"scale": "\xff"}', "UTF-8"),
        ('{"scale": 0.1}'.encode("utf-16"), "UTF-8"),
        (b"[" * 60_000, "nested"),
        (b'{"scale":' * 7_000, "nested"),
        (b"[" + b"0," * 30_000 + b"0]", "too large"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_refused_body_is_422_and_leaves_everything(body: bytes, said: str) -> None:
    engine = StandIn()
    before = engine.settings()
    status, text = post(engine, body)
    assert status == 422 and said in text, text
    assert len(text) < 2000, "a refusal does not send back what it was sent"
    assert engine.settings() == before and engine.history == []
    status, _ = asyncio.run(ask(app_of(engine)))
    assert status == 200


@pytest.mark.parametrize(
    "body",
    [
        {"scale": 0.1, "step": 4, "kind": "lm_heads"},
        {"step": 4, "aqn": {"sigma": 0.1}},
        {"scale": 0.1, "aqn": {"enabled": True}},
    ],
)
def test_a_change_is_made_whole_or_not_at_all(body: dict[str, Any]) -> None:
    """The spec has no AQN, and no such kind."""
    engine = StandIn(worker({"rules": SPEC["rules"]}))
    before = engine.settings()
    status, text = post(engine, body)
    assert status == 422, text
    assert engine.settings() == before and not engine.paused


def test_a_schedule_without_its_length_is_refused_before_the_step_is_set() -> None:
    """σ of a step needs the length of the run, which nobody has given."""
    engine = StandIn(worker({**SPEC, "aqn": {"schedule": "linear"}}))
    before = engine.settings()
    for body in ({"step": 4}, {"scale": 0.3, "aqn": {"step": 2}}):
        status, text = post(engine, body)
        assert status == 422 and "total_steps" in text
        assert engine.settings() == before and not engine.paused
    with pytest.raises(Exception, match="total_steps"):
        asyncio.run(aio.step(engine, 4))  # type: ignore[arg-type]
    assert engine.settings() == before
    assert post(engine, {"aqn": {"sigma": 0.25, "step": 4}})[1]["sigma"] == 0.25


def test_aqn_over_http() -> None:
    engine = StandIn()
    status, found = post(engine, {"aqn": {"step": 3}})
    assert status == 200 and found["sigma"] == 0.125 and found["aqn_step"] == 3
    assert found["step"] == 0, "AQN alone"
    offsets = engine.state.aqn
    assert offsets is not None
    third = offsets.offsets.clone()
    assert third.std() == pytest.approx(0.125, rel=0.2)
    _, found = post(engine, {"aqn": {"sigma": 0.25}, "step": 3})
    assert found["sigma"] == 0.25 and found["step"] == 3
    assert (offsets.offsets == 2 * third).all(), "the same z, twice the σ"
    for off, on in (
        ({"enabled": False}, {"enabled": True}),  # everything
        ({"aqn": {"enabled": False}}, {"aqn": {"enabled": True}}),
    ):
        _, found = post(engine, off)
        assert not offsets.offsets.any() and found["aqn_enabled"] is False
        assert (found["active"] == 0) == ("enabled" in off)
        _, found = post(engine, {"step": 3})
        assert not offsets.offsets.any(), "a step while it is off"
        _, found = post(engine, on)
        assert (offsets.offsets == third).all() and found["sigma"] == 0.125
        assert found["aqn_enabled"] is True and found["active"] > 0
    _, found = post(engine, {"step": 4})
    assert found["aqn_step"] == 4 and not (offsets.offsets == third).all()


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("text/plain", 415),
        ("text/plain; application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonp", 415),
        ("", 415),
        (None, 415),
    ],
)
def test_json_only(content_type: str | None, status: int) -> None:
    """The types that a page of another site may have a browser send unasked are all refused."""
    engine = StandIn()
    before = engine.settings()
    found, text = post(engine, {"scale": 0.1}, content_type=content_type)
    assert found == status, text
    assert (engine.settings() == before) == (status == 415)


def test_a_body_is_read_no_further_than_its_bound() -> None:
    engine = StandIn()
    pieces = [b" " * 1000] * 10_000
    status, text = post(engine, pieces)
    assert status == 413 and str(MOST_BYTES) in text
    padded = b'{"scale": 0.1' + b" " * (MOST_BYTES - 14) + b"}"
    assert len(padded) == MOST_BYTES and post(engine, padded)[0] == 200


# ---- pause and resume


def cancelled_at(step: int, engine: StandIn, body: dict[str, Any], times: int = 1) -> bool:
    """Cancels a request after so many turns of the event loop; whether it was still running.

    Args:
        times: how often, a turn apart: what it does to clean up is cancelled as well.
    """
    app = app_of(engine)

    async def work() -> bool:
        task = asyncio.ensure_future(ask(app, json.dumps(body).encode()))
        for _ in range(step):
            await asyncio.sleep(0)
        running = not task.done()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({task}, timeout=20)
        assert task.done(), "the request hangs"
        return running

    return asyncio.run(work())


@pytest.mark.parametrize("times", [1, 2, 30])
def test_a_request_that_is_cancelled_leaves_the_engine_running(times: int) -> None:
    """At each turn of the loop from before the pause to after the answer."""
    paused_then, made = 0, set()
    for step in range(400):
        engine = StandIn()
        body = {"scale": 0.1, "step": 7, "aqn": {"sigma": 0.5}}
        running = cancelled_at(step, engine, body, times)
        assert not engine.paused, (step, engine.history)
        paused_then += "pause" in engine.history
        found = engine.state.step, engine.state.aqn.sigma  # type: ignore[union-attr]
        assert found in ((0, 0.0), (7, 0.5)), "all of it, or nothing"
        made.add(found)
        if not running:
            break
    assert not running and paused_then > 10 and len(made) == 2


def test_a_request_that_is_cancelled_while_others_run_does_not_hold_them() -> None:
    """The pause waits for requests that run: it is taken back at once, and nothing is changed."""
    engine = StandIn()
    app = app_of(engine)

    async def work() -> None:
        engine.busy = asyncio.Event()  # never set
        task = asyncio.ensure_future(ask(app, b'{"scale": 0.1}'))
        while not engine.paused:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert engine.paused and not task.done()
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert task.cancelled() and not engine.paused
        assert "hetero_noise_change" not in " ".join(engine.history)
        engine.busy = None
        assert (await ask(app, b'{"scale": 0.1}'))[0] == 200, "the lock is free"

    asyncio.run(work())


def test_an_error_while_the_engine_is_paused_resumes_it() -> None:
    engine = StandIn(worker(), worker(rank=1))
    engine.workers[1].hetero_noise.state.set_step(2)
    original = engine.collective_rpc

    async def first_alike(method: str, **more: Any) -> Any:
        answers = await original(method, **more)
        return answers if method == "hetero_noise_change" else [answers[0]] * 2

    engine.collective_rpc = first_alike  # type: ignore[method-assign]
    status, text = post(engine, {"scale": 0.1})
    assert status == 500 and "of 2 ranks, 1 answered otherwise" in text
    assert engine.history == ["pause", "hetero_noise_change paused", "resume"]


def test_a_pause_that_fails_is_resumed_too() -> None:
    engine = StandIn()
    original = engine.pause_generation

    async def lost(**more: Any) -> None:
        await original(**more)
        raise RuntimeError("the answer was lost")

    engine.pause_generation = lost  # type: ignore[method-assign]
    before = engine.settings()
    assert post(engine, {"scale": 0.1})[0] == 500
    assert not engine.paused and engine.settings() == before


def test_somebody_elses_pause_is_left_alone() -> None:
    """A trainer holds the engine while it sends weights: a setting must not set it going."""
    engine = StandIn()
    engine.paused = True
    before = engine.settings()
    status, text = post(engine, {"scale": 0.1})
    assert status == 409 and '"wait": false' in json.loads(text)["error"]["message"]
    assert engine.paused and engine.settings() == before
    assert post(engine, {"scale": 0.1, "wait": False})[0] == 200
    assert engine.paused and engine.history == ["hetero_noise_change paused"]


# ---- every rank


def test_ranks_that_disagree_are_an_error_over_http() -> None:
    engine = StandIn(worker(), worker(rank=1))
    assert asyncio.run(ask(app_of(engine)))[0] == 200
    engine.workers[1].hetero_noise.state.set_scale(0.0, kind="norm")
    status, text = asyncio.run(ask(app_of(engine)))
    assert status == 500 and "of 2 ranks, 1 answered otherwise" in text
    assert post(engine, {"scale": 0.1})[0] == 500
    assert not engine.paused


class DataParallel(StandIn):
    """Several engines behind one client; as vLLM's, ``collective_rpc`` returns the first's."""

    def __init__(self, *engines: StandIn, size: int | None = None) -> None:
        super().__init__(*engines[0].workers)
        self.asked: list[int] = []
        self.vllm_config = SimpleNamespace(
            parallel_config=SimpleNamespace(data_parallel_size=size or len(engines))
        )
        identities = list(range(len(engines)))

        async def one(method: str, *args: Any, engine: int) -> Any:
            assert method == "collective_rpc"
            self.asked.append(engine)
            return await engines[engine].collective_rpc(args[0], kwargs=args[3])

        self.engine_core = SimpleNamespace(core_engines=identities, _call_utility_async=one)


def test_every_data_parallel_engine_is_asked_and_compared() -> None:
    first, second = StandIn(worker(), worker(rank=1)), StandIn(worker(), worker(rank=1))
    engine: Any = DataParallel(first, second)
    status = asyncio.run(aio.set_noise(engine, scale=0.2))
    assert sorted(engine.asked) == [0, 1] and status["scales"]["norm"] == [pytest.approx(0.2)]
    answers = asyncio.run(aio.ranks(engine, "hetero_noise_status"))
    assert [answer["pid"] for answer in answers] == [os.getpid()] * 4  # for an attestation's record
    second.workers[1].hetero_noise.state.set_scale(0.0)
    with pytest.raises(client.RanksDisagree, match="of 4 ranks, 1 of engine 1 answered otherwise"):
        asyncio.run(aio.status(engine))
    status, text = asyncio.run(ask(app_of(engine)))
    assert status == 500 and "1 of engine 1" in text


def test_engines_that_count_their_own_calls_agree_all_the_same() -> None:
    spec = {**SPEC, "resample": "call"}
    engines = [StandIn(worker(spec)), StandIn(worker(spec))]
    engines[1].state.next_call()
    engine: Any = DataParallel(*engines)
    assert asyncio.run(aio.status(engine))["resample"] == "call"
    one: Any = StandIn(worker(spec), worker(spec, rank=1))
    one.workers[1].hetero_noise.state.next_call()
    with pytest.raises(client.RanksDisagree, match="tensors"):
        asyncio.run(aio.status(one))  # ranks of one engine have the same passes


def test_a_change_that_reaches_some_of_the_engines_only_is_refused() -> None:
    """With a load balancer of its own, each server has one engine of several."""
    engine: Any = DataParallel(StandIn(), size=2)
    before = engine.settings()
    status, text = post(engine, {"scale": 0.1})
    assert status == 422 and "1 of 2 data-parallel engines" in text
    assert engine.settings() == before and not engine.paused
    assert asyncio.run(ask(app_of(engine)))[0] == 200, "reading is no change"
    inner = SimpleNamespace(engine_core=engine.engine_core, vllm_config=engine.vllm_config)
    llm: Any = SimpleNamespace(llm_engine=inner)
    with pytest.raises(ValueError, match="1 of 2 data-parallel engines"):
        client.set_noise(llm, scale=0.1)


# ---- who may ask


@pytest.mark.parametrize(
    ("key", "variable", "warned"),
    [(None, None, 1), ([], None, 1), ([""], None, 1), (["k"], None, 0), (None, "k", 0)],
)
def test_an_open_endpoint_is_said_at_start(
    monkeypatch: pytest.MonkeyPatch, key: list[str] | None, variable: str | None, warned: int
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    if variable is not None:
        monkeypatch.setenv("VLLM_API_KEY", variable)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("vllm.hetero_noise")
    logger.addHandler(handler)
    try:
        state: Any = SimpleNamespace()
        arguments: Any = SimpleNamespace(api_key=key)
        asyncio.run(Endpoint().init_state(None, state, arguments))
    finally:
        logger.removeHandler(handler)
    assert len(lines) == warned
    assert all("/v1/hetero_noise is open" in line and "--api-key" in line for line in lines)
