"""What this process is doing: the run's noise while a worker is built, and its noisy actors.

verl gives its engine no rollout configuration, and its rollout client no engine. Both live in
one process, so they meet here. Nothing of verl is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hetero_plugin.config import METHOD, ConfigError
from hetero_plugin.verl.settings import RunNoise, resolve_worker

_current: RunNoise | None = None
_actors: list[tuple[Any, Any]] = []  # (NoiseState, AQNController or None)


@contextmanager
def run_noise(rollout: Any, process: str, *, trains: bool) -> Iterator[None]:
    """Within it, engines that are built belong to the run with this ``rollout`` configuration.

    ``trains``: this process holds the actor, so a noisy one must come into being.

    Raises:
        ConfigError: the run is noisy and this process was not told how (``resolve_worker``), or
            an actor was built without noise all the same.
    """
    global _current
    noise = resolve_worker(rollout, process)
    before = len(_actors)
    _current = noise
    try:
        yield
    finally:
        _current = None
    if noise is not None and trains and len(_actors) == before:
        raise ConfigError(
            f"{process}: quantization={METHOD} but the actor was built without noise (is its "
            "engine not verl's FSDP engine?)"
        )


def current() -> RunNoise | None:
    """The noise of the run whose worker is being built; None outside, and in a clean run."""
    return _current


def add_actor(state: Any, aqn: Any = None) -> None:
    """Notes the NoiseState of an actor that was just wrapped; ``aqn`` if AQN is for it as well."""
    _actors.append((state, aqn))


def set_actor_step(step: int) -> None:
    """Moves the error of this process's actor to noise step ``step`` (0 = first training step).

    Raises:
        ConfigError: there is no noisy actor in this process.
    """
    if not _actors:
        raise ConfigError(
            f"quantization={METHOD}: no noisy actor in the process that syncs the weights, so "
            "rollout and training would not share their error"
        )
    for state, aqn in _actors:
        state.set_step(step)
        if aqn is not None:
            aqn.step(step)


def actor_metrics(status: dict[str, Any]) -> dict[str, list[float]]:
    """The numbers of a status that belong in the training log; the trainer renames them.

    One-element lists: verl gathers an engine's metrics as lists, one entry a micro-batch.
    """
    sites = (status.get("sites") or {}).items()
    metrics = {f"hetero/sites/{kind}": [float(count)] for kind, count in sites}
    metrics["hetero/step"] = [float(status["step"])]
    return metrics
