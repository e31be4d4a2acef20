"""Talking to an `LLM`."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from hetero_plugin.vllm.client import calls
from hetero_plugin.vllm.client.calls import EngineDied, agreed, engines_of

if TYPE_CHECKING:
    from vllm import LLM

P = ParamSpec("P")


@contextmanager
def _watched(llm: LLM, method: str) -> Iterator[None]:
    """Within, a call ends with `EngineDied` when the engine's process does.

    vLLM leaves the answer that a caller waits for pending for ever when its engine is killed.
    """
    core = getattr(getattr(llm, "llm_engine", None), "engine_core", None)
    resources, pending = getattr(core, "resources", None), getattr(core, "utility_results", None)
    if resources is None or pending is None:  # the engine is in this process
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            if not resources.engine_dead:
                continue
            for future in list(pending.values()):
                if not future.done():
                    future.set_exception(EngineDied(method))
            return

    watcher = threading.Thread(target=watch, name="hetero-noise-call", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def call(llm: LLM, method: str, **arguments: Any) -> Any:
    """One worker call on every rank; the answer of rank 0.

    Raises:
        RanksDisagree: some of them compute something else.
        EngineDied: the engine's process ended before it answered.
        ConfigError: it would change some data-parallel engines only.
    """
    engines_of(llm, method)
    return agreed(method, ranks(llm, method, **arguments))


def ranks(llm: LLM, method: str, **arguments: Any) -> list[Any]:
    """One worker call on every rank; all answers.

    Raises:
        EngineDied: the engine's process ended before it answered.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        with _watched(llm, method):
            return list(llm.collective_rpc(method, kwargs=arguments))
    except EngineDeadError:  # it was dead before the call
        raise EngineDied(method) from None


def _made(build: Callable[P, calls.Call]) -> Callable[Concatenate[LLM, P], Any]:
    @functools.wraps(build)
    def made(llm: LLM, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        method, arguments = build(*args, **kwargs)
        return call(llm, method, **arguments)

    return made


status = _made(calls.status)
sites = _made(calls.sites)
set_noise = _made(calls.set_noise)
step = _made(calls.step)
aqn = _made(calls.aqn)
phase = _made(calls.phase)
