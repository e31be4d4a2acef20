"""The worker calls of a noisy engine, and what their answers mean: shared by both clients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hetero_plugin.config import ConfigError

READ_ONLY = (
    "hetero_noise_status",
    "hetero_noise_sites",
    "hetero_noise_keys",
    "hetero_noise_loads",
)
"""Worker calls that change nothing."""
_OF_ONE_RANK = ("rank", "pid", "compiled", "device")


class EngineDied(RuntimeError):
    """The engine's process ended before it answered."""

    def __init__(self, method: str) -> None:
        super().__init__(
            f"the engine's process ended before it answered {method}: whether the setting was "
            "made is unknown, and so is the noise; start a new engine"
        )


class RanksDisagree(RuntimeError):
    """The workers of one engine gave different answers: some of them compute something else."""


def agreed(method: str, answers: Sequence[Any], engines: int = 1) -> Any:
    """The one answer of all ranks.

    Args:
        method: the worker call.
        answers: what ``collective_rpc`` returned, an answer a rank, engine after engine. What
            differs by nature (rank, process, device, compiler counters; between engines that draw
            anew at each call, the tensors that count calls) is not compared.
        engines: data-parallel engines that they are of, each of as many ranks.

    Returns:
        The answer of rank 0.

    Raises:
        RanksDisagree: names the ranks that differ from rank 0, and in what.
    """
    if not answers:
        raise RanksDisagree(f"{method}: no worker answered")
    if len(answers) % engines:
        raise RanksDisagree(
            f"{method}: {len(answers)} answers from {engines} engines, so some rank gave none"
        )
    texts = [_pieces(answer, engines) for answer in answers]
    others = [rank for rank, pieces in enumerate(texts) if pieces != texts[0]]
    if not others:
        return answers[0]

    def named(index: int) -> str:
        if engines == 1:
            return str(index)
        engine, rank = divmod(index, len(answers) // engines)
        return f"{rank} of engine {engine}"

    pairs = zip(texts[0], texts[others[0]], strict=False)
    here, there = next((p for p in pairs if p[0] != p[1]), ("another number of values", "not so"))
    raise RanksDisagree(
        f"{method}: of {len(answers)} ranks, {', '.join(map(named, others))} answered otherwise "
        f"than rank {named(0)}, so the noise of this engine is that of no spec; rank {named(0)}: "
        f"{here}; rank {named(others[0])}: {there}"
    )


def _pieces(answer: Any, engines: int) -> list[str]:
    """What of an answer is compared, as text, in which NaN equals NaN; so that one can be shown."""
    if isinstance(answer, dict):
        left: tuple[str, ...] = _OF_ONE_RANK
        if engines > 1 and answer.get("resample") == "call":
            left = (*left, "tensors")  # each engine has had passes of its own
        answer = [(key, answer[key]) for key in sorted(answer) if key not in left]
    parts = answer if isinstance(answer, list) else [answer]
    return [json.dumps(part, sort_keys=True, default=str) for part in parts]


def data_parallel_size(engine: Any) -> int:
    """How many data-parallel engines there are, whichever process has them."""
    parallel = getattr(getattr(engine, "vllm_config", None), "parallel_config", None)
    return int(getattr(parallel, "data_parallel_size", 1))


def engines_of(engine: Any, method: str) -> list[Any]:
    """The data-parallel engines that ``engine`` asks itself: their identities, or one None.

    Args:
        engine: an ``LLM`` or ``AsyncLLM``.
        method: the worker call that they are to be asked.

    Raises:
        ConfigError: it would change the noise of some data-parallel ranks and not of the others,
            which other processes serve.
    """
    inner = getattr(engine, "llm_engine", engine)
    found = list(getattr(getattr(inner, "engine_core", None), "core_engines", None) or [None])
    size = data_parallel_size(inner)
    if size > len(found) and method not in READ_ONLY:
        raise ConfigError(
            f"{method} would change {len(found)} of {size} data-parallel engines, as the others "
            "belong to other processes, and their noise would be another: let one server have all "
            "engines (vLLM's internal load balancing), or start each with the setting in its spec. "
            "A program that makes the same call in every process can say so by calling "
            "collective_rpc itself"
        )
    return found


Call = tuple[str, dict[str, Any]]
"""Name of a worker call (`hetero_plugin.vllm.serve.control`), and its arguments."""


def status() -> Call:
    """Sites, scales, step, σ and spec in force; ``{"noisy": False, ...}`` from a clean engine."""
    return "hetero_noise_status", {}


def sites() -> Call:
    """The selected sites, with the scales in force."""
    return "hetero_noise_sites", {}


def set_noise(
    scale: float | None = None,
    *,
    kind: str | None = None,
    site: str | None = None,
    rule: int | None = None,
    enabled: bool | None = None,
    reset: bool = False,
    aqn_enabled: bool | None = None,
) -> Call:
    """Changes or switches noise; see `hetero_plugin.vllm.serve.control.hetero_noise_set`."""
    return "hetero_noise_set", {
        "scale": scale,
        "kind": kind,
        "site": site,
        "rule": rule,
        "enabled": enabled,
        "reset": reset,
        "aqn_enabled": aqn_enabled,
    }


def step(n: int, *, aqn: bool = True) -> Call:
    """Sets the noise step and, where the spec has AQN and ``aqn`` is true, its σ and z."""
    return "hetero_noise_step", {"step": n, "aqn": aqn}


def aqn(n: int | None = None, *, off: bool = False) -> Call:
    """AQN alone: σ and z of step ``n``, or off."""
    return "hetero_noise_aqn", {"step": n, "off": off}


def phase(name: str | None) -> Call:
    """Says what the engine is doing: ``rollout`` or ``train``."""
    return "hetero_noise_phase", {"phase": name}
