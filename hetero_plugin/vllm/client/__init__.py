"""Talking to a running noisy engine: functions that take an `LLM`.

For an `AsyncLLM`, `hetero_plugin.vllm.client.aio` has the same as coroutines.

Example::

    from hetero_plugin.vllm import client

    client.set_noise(llm, scale=0.1)
    client.step(llm, 12)
    print(client.status(llm)["scales"])
"""

from hetero_plugin.vllm.client.calls import READ_ONLY, EngineDied, RanksDisagree, agreed
from hetero_plugin.vllm.client.sync import (
    aqn,
    call,
    phase,
    ranks,
    set_noise,
    sites,
    status,
    step,
)

__all__ = [
    "READ_ONLY",
    "EngineDied",
    "RanksDisagree",
    "agreed",
    "aqn",
    "call",
    "phase",
    "ranks",
    "set_noise",
    "sites",
    "status",
    "step",
]
