"""Faults of LoRA in a vLLM engine, tried in tests/engines/test_vllm_lora.py."""

from __future__ import annotations

from typing import Any

from tests.faults.registry import fault, noticed

LAYER = "model.layers.1.self_attn.o_proj"


@fault(
    "the error of an adapted layer, with an adapter or without",
    "a LoRA layer of the engine multiplies by the base weight itself, past the site",
    "refused, with the site",
    by="attestation",
    engine="vllm lora",
)
def lora_layer_past_the_site(case: Any) -> str:
    engine = case.engine
    engine.ask("bypass", layer=LAYER)
    try:
        found = [engine.ask("attest", spec=case.spec, adapter=at) for at in (None, case.adapter)]
    finally:
        engine.ask("mend", layer=LAYER)
    return noticed(all(f"not seen: {LAYER}" in one for one in found), "; ".join(found))
