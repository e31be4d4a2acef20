"""Whether every node of a Ray cluster has this package, and the run's specification reaches it.

verl loads the package in each process by an entry point. On a node where it is not installed
there is none, and what runs there would be verl's own: clean. Asked once, before any worker.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hetero_plugin.config import ENVIRONMENT, ConfigError, NoiseConfig

__all__ = ["check_nodes", "found_here"]

_PATIENCE = 120.0
"""Seconds within which a node has started a worker and answered."""


def found_here() -> dict[str, str | None]:
    """What a worker of this run has: the package's version, the specification's fingerprint.

    Raises:
        ConfigError: engines would not load the package here.
    """
    from hetero_plugin.attestation import versions
    from hetero_plugin.verl.node import check_plugin

    check_plugin()
    given = os.environ.get(ENVIRONMENT)
    return {
        "version": versions()["hetero-plugin"],
        "fingerprint": None if given is None else NoiseConfig.parse(given).fingerprint,
    }


def check_nodes(config: NoiseConfig) -> int:
    """Asks each node that is alive for what a worker on it has; where there is one, it is here.

    Args:
        config: of the run.

    Returns:
        How many nodes there are.

    Raises:
        ConfigError: one lacks the package, has another version than this process, was not given
            the run's specification, or does not answer; each such node is named.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if len(alive) < 2:
        return len(alive)
    here = found_here()["version"]
    asked: dict[str, Any] = {}
    task = ray.remote(num_cpus=0, max_retries=0)(found_here)
    for node in alive:
        # Not soft: on that node or not at all.
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        asked[name] = task.options(scheduling_strategy=where).remote()
    wrong = []
    for name, answer in asked.items():
        try:
            found = ray.get(answer, timeout=_PATIENCE)
        except Exception as error:
            wrong.append(f"{name}: {_reason(error)}")
            continue
        if found["version"] != here:
            wrong.append(f"{name}: hetero-plugin {found['version']}, and {here} where it started")
        elif found["fingerprint"] != config.fingerprint:
            wrong.append(
                f"{name}: its workers were given the specification {found['fingerprint']}, the "
                f"run has {config.fingerprint}"
            )
    if wrong:
        raise ConfigError(
            f"{len(wrong)} of {len(asked)} nodes of the Ray cluster can't take part in a noisy "
            f"run: {'; '.join(wrong)}. Install this version of hetero-plugin on every node, beside "
            "the verl and vLLM that Ray's workers there use."
        )
    return len(asked)


def _reason(error: Exception) -> str:
    """The last line of what a task raised, without Ray's own account of where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return f"no answer within {_PATIENCE:.0f} seconds"
    return lines[-1].rstrip(".") if lines else type(error).__name__
