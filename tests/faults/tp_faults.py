"""Faults of one rank among several, tried in tests/engines/test_vllm_parallel.py."""

from __future__ import annotations

from tests.faults.registry import fault, noticed
from tests.faults.tp_engine import TPEngine


def _refused(engine: TPEngine, what: str) -> str:
    engine.ask("spoil", what=what)
    try:
        found = engine.refusal()
    finally:
        engine.ask("mend")
    return noticed("RanksDisagree" in found and "of 2 ranks, 1 answered otherwise" in found, found)


@fault(
    "the noise of one tensor-parallel rank",
    "rank 1 of 2 reads a scale table that stays at 0",
    "refused, with the rank",
    by="attestation",
    engine="vllm tp",
)
def noise_on_one_tensor_parallel_rank(engine: TPEngine) -> str:
    return _refused(engine, "silent")


@fault(
    "agreement of ranks: replicated layers drift apart",
    "rank 1 of 2 draws from another seed",
    "refused, with the rank",
    by="attestation",
    engine="vllm tp",
)
def ranks_that_draw_apart(engine: TPEngine) -> str:
    return _refused(engine, "other draw")
