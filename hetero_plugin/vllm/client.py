"""Talking to a running noisy engine: functions that take an `LLM`.

Example::

    from hetero_plugin.vllm import client

    client.set_noise(llm, scale=0.1)
    client.step(llm, 12)
    print(client.status(llm)["scales"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLM

_OF_ONE_RANK = ("rank", "compiled", "device")


def call(llm: LLM, method: str, **arguments: Any) -> Any:
    """One worker call on every rank; the answer of rank 0.

    Raises:
        RuntimeError: the ranks disagree, so some of them compute something else.
    """
    answers = llm.collective_rpc(method, kwargs=arguments)
    if isinstance(answers[0], dict):
        common = [{k: v for k, v in a.items() if k not in _OF_ONE_RANK} for a in answers]
        if any(other != common[0] for other in common[1:]):
            raise RuntimeError(f"{method}: the workers of this engine disagree: {answers}")
    return answers[0]


def status(llm: LLM) -> dict[str, Any]:
    """Sites, scales, step, σ and spec in force; ``{"noisy": False, ...}`` from a clean engine."""
    return call(llm, "hetero_noise_status")


def sites(llm: LLM) -> list[dict[str, Any]]:
    """The selected sites, with the scales in force."""
    return call(llm, "hetero_noise_sites")


def set_noise(
    llm: LLM,
    scale: float | None = None,
    *,
    kind: str | None = None,
    site: str | None = None,
    enabled: bool | None = None,
    reset: bool = False,
) -> dict[str, Any]:
    """Changes or switches noise; see `hetero_plugin.vllm.control.hetero_noise_set`."""
    return call(
        llm,
        "hetero_noise_set",
        scale=scale,
        kind=kind,
        site=site,
        enabled=enabled,
        reset=reset,
    )


def step(llm: LLM, n: int, *, aqn: bool = True) -> dict[str, Any]:
    """Sets the noise step and, where the spec has AQN and ``aqn`` is true, its σ and z."""
    return call(llm, "hetero_noise_step", step=n, aqn=aqn)


def aqn(llm: LLM, n: int | None = None, *, off: bool = False) -> dict[str, Any]:
    """AQN alone: σ and z of step ``n``, or off."""
    return call(llm, "hetero_noise_aqn", step=n, off=off)


def phase(llm: LLM, name: str | None) -> dict[str, Any]:
    """Says what the engine is doing: ``rollout`` or ``train``."""
    return call(llm, "hetero_noise_phase", phase=name)
