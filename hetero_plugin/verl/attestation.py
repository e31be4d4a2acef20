"""Proof that both engines of a verl run are noisy, at its start and at its end.

The trainer asks the actor's workers and the rollout's servers for a record each: a knock-in through
the sharded model, and through vLLM's compiled graph. The records lie beside the checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_plugin.attestation import Refused, attest, problems, signature
from hetero_plugin.attestation.expected import expected_sites
from hetero_plugin.config import NoiseConfig
from hetero_plugin.sites import aqn_sites, sites_from_config
from hetero_plugin.state import Phase
from hetero_plugin.verl.kept import unused
from hetero_plugin.verl.settings import RunNoise

ABSENT = "the specification has nothing in this phase"


def nothing_to_see(config: NoiseConfig, hf_config: Mapping[str, Any], phase: Phase) -> bool:
    """Whether an engine in this phase is clean because the specification says so."""
    sites = sites_from_config(hf_config)
    directions = ("forward", "both", "backward") if phase == "train" else ("forward", "both")
    return not expected_sites(config, hf_config, phase, directions) and not aqn_sites(config, sites)


def attest_actor(engine: Any) -> dict[str, Any]:
    """The record of one rank's actor; every rank has to call it, as FSDP's passes are collective.

    Args:
        engine: a ``NoisyFSDPEngine`` whose model was wrapped.

    Returns:
        A record, or ``{"engine": ..., "absent": ...}`` where the actor is meant to be clean.
    """
    from hetero_plugin.hf.probe import HFProbe

    model, state = engine.noisy_model, engine.noise_state
    name = f"verl-{engine.engine_config.strategy}"
    if nothing_to_see(state.config, model.config.to_dict(), "train"):
        return {"engine": name, "absent": ABSENT}
    with engine.eval_mode():  # also brings parameters back that were offloaded
        # FSDP's mixed precision casts parameters for a pass, and they say what they are kept in.
        probe = HFProbe(
            model,
            phase="train",
            forward=engine.module,
            engine=name,
            rank=engine.rank,
            dtype=engine.computes_in,
        )
        return attest(probe)


async def attest_rollout(engine: Any, noise: RunNoise, adapter: Any = None) -> dict[str, Any]:
    """The record of one replica's vLLM engine, which has to be idle; or ``{"absent": ...}``.

    Args:
        engine: the replica's ``AsyncLLM``.
        noise: what the run asks for.
        adapter: the ``LoRARequest`` of the policy's adapter, which rollouts go through; the record
            then says ``"adapter"``.
    """
    from hetero_plugin.vllm.probe import attest_async

    hf_config = engine.vllm_config.model_config.hf_text_config.to_dict()
    if nothing_to_see(noise.config, hf_config, "rollout"):
        return {"engine": "vllm", "absent": ABSENT}
    record = await attest_async(engine, noise.config, adapter=adapter)
    if adapter is None:
        return record
    whole = {**record, "adapter": adapter.lora_name}
    return {**whole, "signature": signature(whole)}


def settle(
    records: Sequence[tuple[str, Mapping[str, Any]]],
    noise: RunNoise,
    *,
    when: str,
    step: int,
    folder: Path,
) -> Path:
    """Writes the records down, says what they show, and stops the run if they don't show noise.

    Args:
        records: (process, its record).
        noise: what the run asks for.
        when: "start" or "end".
        step: training steps that are done.
        folder: of the run's checkpoints.

    Returns:
        The file that was written; an earlier one of the same step keeps its place.

    Raises:
        Refused: names each process and its failing sites.
    """
    failures = []
    words = []
    for process, record in records:
        if "absent" in record:
            words.append(f"{process}: {record['absent']}")
            continue
        found = problems(record, noise.config.fingerprint)
        norms = sum(bool(row.get("seen")) for row in record.get("aqn") or [])
        seen = f"{process}: {record.get('seen')}/{record.get('of')} sites seen"
        through = " through the adapter" if record.get("adapter") else ""
        words.append(seen + through + (f", AQN at {norms} norms" if norms else ""))
        failures += [f"{process}: {problem}" for problem in found]
    if all("absent" in record for _, record in records):
        failures.append("no process was attested")
    folder.mkdir(parents=True, exist_ok=True)
    path = unused(folder / f"attestation-{when}-step{step}.json")
    contents = {
        "when": when,
        "step": step,
        "passed": not failures,
        "fingerprint": noise.config.fingerprint,
        "records": [{"process": process, "record": dict(record)} for process, record in records],
    }
    path.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    word = "REFUSED" if failures else "attested"
    print(f"hetero_noise: {word} at the {when} of training: {'; '.join(words)}", flush=True)
    if failures:
        raise Refused(
            f"REFUSED at the {when} of training: {'; '.join(failures)}. The records are in {path}"
        )
    return path
