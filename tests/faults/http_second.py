"""Faults of settings over HTTP, and of engines of several ranks; behind the route is no model.

Run by ``tests/engines/test_faults_vllm.py``, as vLLM has to be there.
"""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from tests.faults.registry import fault, noticed, refused


def _posted(engine: Any, body: Any, content_type: str = "application/json") -> tuple[int, str]:
    from tests.vllm.stand_in import app_of, ask

    given = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asyncio.run(ask(app_of(engine), given, content_type=content_type))


def _engine(spec: dict[str, Any] | None = None) -> Any:
    from tests.vllm.stand_in import StandIn, worker

    return StandIn(worker(spec))


def _unchanged(engine: Any, body: Any, status: int, *words: str, **more: Any) -> str:
    before = engine.settings()
    found, text = _posted(engine, body, **more)
    right = found == status and all(word in text for word in words)
    return noticed(right and engine.settings() == before and not engine.paused, f"{found}: {text}")


# ---- numbers that the tables can't hold


@fault(
    "all noise, under the name of a noisy server",
    "POST `scale: 1e-46`, which is 0 in float32",
    "422, and nothing has changed",
    by="error",
    engine="vllm",
)
def scale_that_is_nothing_in_float32_over_http() -> str:
    return _unchanged(_engine(), {"scale": 1e-46}, 422, "0 in the float32 table")


@fault(
    "the status: every answer of the server would be an error afterwards",
    "POST `aqn: {sigma: 4e38}` beside a step",
    "422, and the step is what it was",
    by="error",
    engine="vllm",
)
def sigma_beyond_float32_over_http() -> str:
    body = {"step": 2, "aqn": {"sigma": 4e38}}
    return _unchanged(_engine(), body, 422, "infinite in the float32 table")


@fault(
    "the step: 2⁶⁴ + 5 would draw the noise of step 5",
    "POST `step: 18446744073709551621`",
    "422, and nothing has changed",
    by="error",
    engine="vllm",
)
def step_beyond_64_bits_over_http() -> str:
    return _unchanged(_engine(), {"step": 2**64 + 5}, 422, "step")


@fault(
    "half of a setting: the new step with the old σ",
    "POST `step` and `scale` where the workers can't tell σ of that step",
    "422, and neither is set",
    by="error",
    engine="vllm",
)
def half_of_a_change_over_http() -> str:
    from tests.vllm.stand_in import SPEC

    engine = _engine({**SPEC, "aqn": {"schedule": "cosine"}})
    return _unchanged(engine, {"step": 4, "scale": 0.3}, 422, "total_steps")


@fault(
    "one of two values",
    'POST `{"scale": 0, "\\u0073cale": 0.2}`: one key, spelled in two ways',
    "422: given twice",
    by="error",
    engine="vllm",
)
def key_given_twice_in_two_spellings_over_http() -> str:
    return _unchanged(_engine(), b'{"scale": 0, "\\u0073cale": 0.2}', 422, "given twice")


# ---- off


@fault(
    "cleanness: AQN's offsets stay on while everything is off",
    'POST `{"enabled": false}`, and then a step',
    "the offsets in force are 0, and those of that step when it is on again",
    by="values",
    engine="vllm",
)
def aqn_that_steps_while_everything_is_off_over_http() -> str:
    engine = _engine()
    offsets = engine.state.aqn
    _posted(engine, {"step": 1})
    first = offsets.offsets.clone()
    _posted(engine, {"enabled": False})
    _posted(engine, {"step": 2})
    off = not offsets.offsets.any()
    _posted(engine, {"enabled": True})
    second = offsets.offsets
    right = off and first.any() and second.any() and not (first == second).all()
    return noticed(bool(right), "off is off, and step 2 comes into force after it")


@fault(
    "the operators' noise: AQN's switch takes them along",
    'POST `{"aqn": {"enabled": false}}`',
    "the scales in force are what they were, the offsets are 0",
    by="values",
    engine="vllm",
)
def switching_aqn_alone_over_http() -> str:
    engine = _engine()
    _posted(engine, {"aqn": {"step": 3}})
    scales = engine.state.scales.clone()
    was = bool(engine.state.aqn.offsets.any())
    _posted(engine, {"aqn": {"enabled": False}})
    right = was and not engine.state.aqn.offsets.any() and (engine.state.scales == scales).all()
    return noticed(bool(right), "AQN alone is off")


# ---- a server that answers nobody, or anybody


def _cancelled(times: int) -> str:
    from tests.vllm.stand_in import app_of, ask

    engine = _engine()
    before = engine.settings()
    app = app_of(engine)

    async def work() -> None:
        engine.busy = asyncio.Event()  # requests that run on and on
        task = asyncio.ensure_future(ask(app, b'{"scale": 0.1}'))
        while not engine.paused:
            await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait({task}, timeout=20)

    asyncio.run(work())
    right = "pause" in engine.history and not engine.paused and engine.settings() == before
    return noticed(right, ", ".join(engine.history))


@fault(
    "every answer: the server is paused for ever",
    "a setting is cancelled while its pause waits for requests that run",
    "the engine is resumed, nothing has changed",
    by="values",
    engine="vllm",
)
def setting_cancelled_while_its_pause_waits() -> str:
    return _cancelled(1)


@fault(
    "every answer: the cleaning up is cancelled too",
    "a setting is cancelled at twenty turns of the event loop, one after the other",
    "the engine is resumed, nothing has changed",
    by="values",
    engine="vllm",
)
def setting_cancelled_again_while_it_resumes() -> str:
    return _cancelled(20)


@fault(
    "another's pause: weights arrive while requests run again",
    "a setting for an engine that a trainer has paused",
    "409, the engine is still paused",
    by="error",
    engine="vllm",
)
def setting_that_would_end_anothers_pause() -> str:
    engine = _engine()
    engine.paused = True
    before = engine.settings()
    status, text = _posted(engine, {"scale": 0.1})
    return noticed(status == 409 and engine.paused and engine.settings() == before, text)


@fault(
    "the setting, to any page that a browser on this machine shows",
    "POST of JSON as `multipart/form-data`, which browsers send to other sites unasked",
    "415, and nothing has changed",
    by="error",
    engine="vllm",
)
def form_of_another_site() -> str:
    kind = "multipart/form-data; boundary=application/json"
    return _unchanged(_engine(), {"scale": 0.1}, 415, "application/json", content_type=kind)


# ---- engines of several ranks


def _engines(size: int) -> Any:
    from tests.vllm.stand_in import StandIn, worker

    engines = [StandIn(worker(), worker(rank=1)) for _ in range(2)]

    async def one(method: str, *args: Any, engine: int) -> Any:
        return await engines[engine].collective_rpc(args[0], kwargs=args[3])

    made: Any = engines[0]
    made.second = engines[1]
    parallel = SimpleNamespace(data_parallel_size=size)
    made.vllm_config = SimpleNamespace(parallel_config=parallel)
    made.engine_core = SimpleNamespace(core_engines=[0, 1], _call_utility_async=one)
    return made


@fault(
    "the noise of every second request",
    "the second data-parallel engine has lost its switch; vLLM returns the first one's answers",
    "RanksDisagree, with the engine and the rank",
    by="error",
    engine="vllm",
)
def second_data_parallel_engine_is_off() -> str:
    from hetero_plugin.vllm import client
    from hetero_plugin.vllm.client import aio

    engine = _engines(2)
    engine.second.workers[1].hetero_noise.state.set_enabled(False)
    return refused(
        lambda: asyncio.run(aio.set_noise(engine, scale=0.1)),
        "of 4 ranks, 1 of engine 1 answered otherwise",
        kind=client.RanksDisagree,
    )


@fault(
    "one noise for all requests of a deployment",
    "a setting to a server that has two of four data-parallel engines",
    "ConfigError before anything is paused or changed",
    by="error",
    engine="vllm",
)
def setting_that_reaches_half_of_the_engines() -> str:
    return _unchanged(_engines(4), {"scale": 0.1}, 422, "2 of 4 data-parallel engines")


@fault(
    "the noise of completions that a tensor-parallel engine of TRL's makes",
    "rank 1 of 2 keeps the step before",
    "RanksDisagree at the next generation, with the rank",
    by="error",
    engine="vllm",
)
def second_rank_of_trls_engine_is_a_step_behind() -> str:
    from hetero_plugin.config import NoiseConfig
    from hetero_plugin.trl.engine import ColocatedEngine
    from hetero_plugin.vllm import client

    config = NoiseConfig(scale=0.1)
    said = {"noisy": True, "fingerprint": config.fingerprint, "step": 0, "enabled": True}

    def collective_rpc(method: str, kwargs: dict[str, Any]) -> list[Any]:
        step = kwargs.get("step", 0)
        return [{**said, "step": step}, {**said, "step": max(0, step - 1)}]

    llm = SimpleNamespace(collective_rpc=collective_rpc)
    state: Any = SimpleNamespace(config=config, fingerprint=config.fingerprint)
    engine = ColocatedEngine(SimpleNamespace(mode="colocate", llm=llm), state)
    return refused(lambda: engine.rollout(3), "of 2 ranks, 1", kind=client.RanksDisagree)
