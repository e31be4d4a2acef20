"""LoRA adapters in a real vLLM engine: the base path is noisy, for every request.

An adapter's own product stays clean, as with `wrap` in Hugging Face: y = noisy(x W) + x A B; error
on attention is on the x that both are given.
Bounds as in test_vllm_families.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines.families import PROMPTS
from tests.engines.vllm_adapter_engine import AdapterEngine
from tests.engines.vllm_engine import make_model
from tests.engines.yardstick import gap, hf_logprobs, hf_model, prompts_of
from tests.faults.registry import Fault, everything

pytestmark = pytest.mark.engine

SPEC: dict[str, Any] = {
    "rules": [
        {"targets": ["linear", "norm", "activation", "attention"], "scale": 0.05},
        {"targets": ["*.gate_proj", "*.up_proj", "*.o_proj"], "point": "input", "scale": 0.02},
        {"targets": ["linear"], "error": "nvfp4", "point": "weight"},
    ],
    "seed": 5,
}
FAULTS = [one for one in everything() if one.engine == "vllm lora"]
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass
class Case:
    model: Path
    adapter: str
    engine: AdapterEngine
    spec: dict[str, Any]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("lora")
    model = make_model(
        path / "model", hidden=64, heads=2, kv=1, inner=96, tied=False, dtype="float32"
    )
    torch.manual_seed(1)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        LoraConfig(r=8, lora_alpha=16, target_modules=LAYERS, init_lora_weights=False),
    )
    adapted.save_pretrained(str(path / "adapter"))
    engine = AdapterEngine(
        path / "log.txt",
        {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
        },
        model=str(model),
        dtype="float32",
        enable_lora=True,
        max_lora_rank=8,
        quantization="hetero_noise",
        additional_config={"hetero_noise": SPEC},
    )
    yield Case(model, str(path / "adapter"), engine, SPEC)
    engine.close()


def test_base_and_adapter_have_the_error_of_the_base_layers(case: Case) -> None:
    from peft import PeftModel

    from hetero_plugin import wrap

    engine = case.engine
    assert engine.status()["compiled"]["aot"] == 0, "vLLM compiles with LoRA now: see features.py"

    def load() -> Any:
        return hf_model(case.model, "float32")

    def load_adapted() -> Any:
        return PeftModel.from_pretrained(load(), case.adapter).eval()

    found = {}
    for scales in ("noisy", "clean"):
        if scales == "clean":
            engine.set(scale=0.0)
        found[scales, "base"] = prompts_of(engine.logprobs(*PROMPTS))
        found[scales, "adapter"] = engine.ask("adapted", prompts=PROMPTS, adapter=case.adapter)
    engine.set(reset=True)
    made = {"base": load, "adapter": load_adapted}
    clean = {path: hf_logprobs(one(), PROMPTS) for path, one in made.items()}
    noisy = {
        path: hf_logprobs(wrap(one(), SPEC, quiet=True), PROMPTS) for path, one in made.items()
    }
    for path in ("base", "adapter"):
        bound = max(1.5 * gap(found["clean", path], clean[path]), 2e-5)
        assert bound < 1e-4, path
        assert gap(found["noisy", path], noisy[path]) <= bound, path
        assert gap(noisy[path], clean[path]) >= 100 * bound, path
    assert gap(clean["base"], clean["adapter"]) > 0.1, "the adapter does nothing"


def test_both_paths_are_attested(case: Case) -> None:
    """Every site is seen through the adapter too."""
    assert case.engine.ask("attest", spec=SPEC) == ""
    assert case.engine.ask("attest", spec=SPEC, adapter=case.adapter) == ""
    assert "adapters" in case.engine.log.read_text()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda one: one.name.replace(" ", "-"))
def test_fault_is_noticed(fault: Fault, case: Case) -> None:
    print(fault.run(case))
    assert case.engine.ask("attest", spec=SPEC, adapter=case.adapter) == "", "mended"


def test_a_layer_without_a_map_is_an_error_or_named_as_clean(case: Case) -> None:
    """The last test of this engine: its noise is attached anew."""
    layer = "model.layers.1.self_attn.gated_out_proj"
    refused = case.engine.ask("unmapped", how="error")
    assert "that the map of 'qwen2' does not name" in refused
    assert layer in refused and "unmapped='warn' leaves them clean" in refused
    assert case.engine.ask("unmapped", how="warn") == ""
    log = case.engine.log.read_text()
    assert "these stay clean" in log and layer in log
