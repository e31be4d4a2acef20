"""Error on top of a checkpoint's own quantisation: int8 weights and activations, in vLLM on CPU.

The checkpoint is made here: weights rounded to int8 with a scale for each row, in the form of
compressed-tensors. In float16, which no other engine of the tests runs in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines.vllm_adapter_engine import AdapterEngine
from tests.engines.vllm_engine import Record, make_model

pytestmark = pytest.mark.engine

DTYPE = "float16"
PROMPTS = [[3 + (j * 11 + i * 7 + j * j) % 190 for j in range(20 + 13 * i)] for i in range(4)]
SPEC: dict[str, Any] = {
    "rules": [
        {"targets": ["linear"], "scale": 0.05},
        {"targets": ["*.up_proj", "*.o_proj"], "point": "input", "scale": 0.02},
    ],
    "seed": 5,
}
INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
QUANTISATION: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": INT8 | {"strategy": "channel", "dynamic": False},
            "input_activations": INT8 | {"strategy": "token", "dynamic": True},
        }
    },
}


def quantise(path: Path) -> None:
    """Turns a saved model into an int8 one, in place."""
    import torch
    from safetensors.torch import load_file, save_file

    made = {}
    for name, value in load_file(path / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            made[name] = value
            continue
        scale = value.float().abs().amax(dim=1, keepdim=True) / 127
        made[name] = (value.float() / scale).round().clamp(-127, 127).to(torch.int8)
        made[name + "_scale"] = scale.to(value.dtype)
    save_file(made, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = QUANTISATION
    (path / "config.json").write_text(json.dumps(config))


@dataclass
class Case:
    clean: list[Record]
    methods: dict[str, int]
    """Of an engine without the plugin."""
    engine: AdapterEngine


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    path = tmp_path_factory.mktemp("int8")
    shape = {"hidden": 64, "heads": 2, "kv": 1, "inner": 128, "tied": False}
    model = make_model(path / "model", dtype=DTYPE, **shape)  # type: ignore[arg-type]
    quantise(model)
    env = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    }
    common = {"model": str(model), "dtype": DTYPE}
    plain = AdapterEngine(path / "clean.txt", env, **common)
    clean, methods = plain.logprobs(*PROMPTS), plain.ask("methods")
    plain.close()
    engine = AdapterEngine(
        path / "log.txt",
        env,
        quantization="hetero_noise",
        additional_config={"hetero_noise": SPEC},
        **common,
    )
    yield Case(clean, methods, engine)
    engine.close()


def test_the_checkpoints_method_runs_with_error_on_top(case: Case) -> None:
    engine = case.engine
    assert case.methods[
        "vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors"
        ".CompressedTensorsLinearMethod"
    ]
    assert engine.ask("methods")["hetero_plugin.vllm.quantised.CompressedTensorsLinearMethod"] == 8
    noisy = engine.logprobs(*PROMPTS)
    engine.set(scale=0.0)
    assert engine.logprobs(*PROMPTS) == case.clean  # bit for bit
    engine.set(reset=True)
    assert engine.logprobs(*PROMPTS) == noisy
    for a, b in zip(noisy, case.clean, strict=True):
        assert max(abs(x - y) for x, y in zip(a["prompt"], b["prompt"], strict=True)) > 0.05


def test_every_site_of_a_quantised_model_is_attested(case: Case) -> None:
    assert case.engine.ask("attest", spec=SPEC) == ""
