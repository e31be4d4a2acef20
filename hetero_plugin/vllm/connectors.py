"""Keys and values that a KV connector keeps outside of vLLM's own cache: they are old noise too.

An engine forgets its prefix cache when its noise or its weights change. A connector (offloading to
CPU, LMCache, Mooncake) holds further copies, and serves them to requests that come later. So it is
emptied as well, and one that can't be is refused: at configuration where its class says so, else
where the scheduler makes it, else by the call that changes the noise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hetero_plugin.config import ConfigError
from hetero_plugin.vllm.patching import Function

if TYPE_CHECKING:
    from vllm.config import KVTransferConfig, VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore

_ADVICE = "take the KV connector (or KV offloading) out of this engine's configuration"


def _reason(what: str, why: str) -> str:
    return (
        f"hetero_noise: the KV connector {what} {why}, so it would serve keys and values that were "
        f"computed under another noise, or other weights: {_ADVICE}"
    )


def refuse_configured(vllm_config: VllmConfig) -> None:
    """Refuses a configured connector whose class can't be emptied.

    Raises:
        ConfigError: some connector inherits the empty ``reset_cache``, has a tier that outlives it,
            or this vLLM can't be asked to empty one.
    """
    given = vllm_config.kv_transfer_config
    if given is None or given.kv_connector is None:
        return
    from vllm.v1.core.sched.scheduler import Scheduler

    if not takes_connector(Scheduler.reset_prefix_cache):
        raise ConfigError(
            _reason(str(given.kv_connector), "can't be emptied through this version of vLLM")
        )
    for one in _each(given):
        why = _class_problem(_class_of(one)) or _tiers_problem(one.kv_connector_extra_config)
        if why is not None:
            raise ConfigError(_reason(str(one.kv_connector), why))


def _each(given: KVTransferConfig) -> Iterator[KVTransferConfig]:
    """A connector's configuration, or those that a MultiConnector holds."""
    from vllm.config import KVTransferConfig

    inside = (given.kv_connector_extra_config or {}).get("connectors")
    if given.kv_connector != "MultiConnector" or not isinstance(inside, list | tuple):
        yield given
        return
    for one in inside:
        yield from _each(KVTransferConfig(**one) if isinstance(one, Mapping) else one)


def _class_of(given: KVTransferConfig) -> type:
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    try:
        found: type = KVConnectorFactory.get_connector_class(given)
    except Exception as error:
        # vLLM would say the same, later and from another process.
        why = f"can't be looked at ({type(error).__name__}: {error})"
        raise ConfigError(_reason(str(given.kv_connector), why)) from error
    return found


def _class_problem(cls: type) -> str | None:
    """Why a connector's class can't be emptied; None: it says that it can."""
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1

    own = getattr(cls, "reset_cache", None)
    if own is None or own is getattr(KVConnectorBase_V1, "reset_cache", None):
        return "has no reset_cache of its own"
    return None


def _tiers_problem(extra: Mapping[str, object] | None) -> str | None:
    if (extra or {}).get("secondary_tiers"):
        return "keeps its secondary tiers (files, object stores, peers) when it is emptied"
    return None


def _inside(connector: KVConnectorBase_V1) -> Iterator[KVConnectorBase_V1]:
    parts = getattr(connector, "sub_connectors", None) or getattr(connector, "_connectors", None)
    if not parts:
        yield connector
        return
    for one in parts:
        yield from _inside(one)


def _problem(connector: KVConnectorBase_V1) -> str | None:
    """Why a connector that is there can't be emptied; None: nothing is known against it."""
    why = _class_problem(type(connector))
    manager = getattr(getattr(connector, "connector_scheduler", None), "manager", None)
    if why is not None or manager is None:
        return why
    if getattr(manager, "secondary_tiers", None):
        return "keeps its secondary tiers (files, object stores, peers) when it is emptied"
    try:
        from vllm.v1.kv_offload.base import OffloadingManager
    except ImportError:  # an older vLLM has it elsewhere; its own managers all reset
        return None
    if getattr(type(manager), "reset_cache", None) is OffloadingManager.reset_cache:
        return f"has a manager ({type(manager).__name__}) without a reset_cache of its own"
    return None


def empty_made(scheduler: Scheduler) -> None:
    """Empties the connector that a noisy engine's scheduler has just made.

    What is in a store that outlives engines is of an engine before, clean or otherwise noisy.

    Raises:
        ConfigError: it can't be emptied.
    """
    connector = getattr(scheduler, "connector", None)
    if connector is None:
        return
    for one in _inside(connector):
        why = _problem(one)
        if why is None and one.reset_cache() is not True:
            why = "did not say that it was emptied (its reset_cache returned no true)"
        if why is not None:
            raise ConfigError(_reason(type(one).__name__, why))


def takes_connector(reset: Function) -> bool:
    """Whether a ``reset_prefix_cache`` can be told to empty the connector too."""
    return "reset_connector" in inspect.signature(reset).parameters


def follow_making(original: Function) -> Function:
    """Around ``Scheduler.__init__``."""

    def __init__(self: Scheduler, *args: object, **kwargs: object) -> None:
        from hetero_plugin.vllm.quantization import is_noisy

        original(self, *args, **kwargs)
        if is_noisy(self.vllm_config):
            empty_made(self)

    return __init__


def follow_calls(original: Function) -> Function:
    """Around ``EngineCore.collective_rpc``: what changes noise or weights empties the caches."""

    def collective_rpc(self: EngineCore, method: object, *args: object, **kwargs: object) -> Any:
        from hetero_plugin.vllm import weights
        from hetero_plugin.vllm.client.calls import READ_ONLY

        ours = isinstance(method, str) and method.startswith("hetero_noise_")
        if ours and method in READ_ONLY:
            return original(self, method, *args, **kwargs)
        if ours and has_connector(self):
            forget(self, changed=False)  # one that can't is refused before the change
        try:
            return original(self, method, *args, **kwargs)
        finally:
            # After an error too, as some ranks may have made the change.
            if ours or weights.were_loaded(self, original):
                forget(self, changed=True)

    return collective_rpc


def has_connector(engine: EngineCore) -> bool:
    """Whether an EngineCore's scheduler has a connector."""
    return _connector_of(engine) is not None


def _connector_of(engine: EngineCore) -> KVConnectorBase_V1 | None:
    return getattr(getattr(engine, "scheduler", None), "connector", None)


def forget(engine: EngineCore, *, changed: bool) -> None:
    """Empties the prefix cache of an EngineCore, and what its connector keeps.

    Running requests are computed anew as well: their keys and values are of the old noise.

    Args:
        engine: vLLM's EngineCore.
        changed: whether noise or weights have been changed already, for the message.

    Raises:
        RuntimeError: the connector did not let go. Before a change it is then not made; after one
            the engine must not be used any more, as its answers could be of both.
    """
    connector = _connector_of(engine)
    if connector is None:
        engine.reset_prefix_cache(reset_running_requests=True)
        return
    why = next((why for one in _inside(connector) if (why := _problem(one)) is not None), None)
    if why is None and not takes_connector(engine.reset_prefix_cache):
        why = "can't be emptied through this version of vLLM"
    if why is None:
        with _heard(connector) as said:
            done = engine.reset_prefix_cache(reset_running_requests=True, reset_connector=True)
        if done is False or not said or any(answer is not True for answer in said):
            why = f"did not let go of its keys and values (its reset_cache returned {said})"
    if why is None:
        return
    words = _reason(type(connector).__name__, why)
    raise RuntimeError(
        f"{words}. The change was made, so this engine's answers may now be of two noises: "
        "restart it"
        if changed
        else f"{words}. Nothing was changed; if requests are running, try again when they are done"
    )


@contextmanager
def _heard(connector: KVConnectorBase_V1) -> Iterator[list[object]]:
    """Within, what each connector's ``reset_cache`` returns: vLLM takes None for success."""
    said: list[object] = []

    def listening(original: Callable[[], object]) -> Callable[[], object]:
        def reset_cache() -> object:
            said.append(original())
            return said[-1]

        return reset_cache

    inside: list[Any] = list(_inside(connector))  # whose methods are replaced
    for one in inside:
        one.reset_cache = listening(one.reset_cache)
    try:
        yield said
    finally:
        for one in inside:
            del one.reset_cache
