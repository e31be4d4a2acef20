"""Products added up as on another machine, in a compiled vLLM engine: clean at scale 0, the same
each time at 1. tests/vllm/test_vllm_accumulate.py holds layers to Hugging Face, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines.vllm_engine import Engine, Record, make_model

pytestmark = pytest.mark.engine

PROMPTS = [[3 + (j * 11 + i * 7 + j * j) % 190 for j in range(20 + 9 * i)] for i in range(4)]
SPEC: dict[str, Any] = {
    "rules": [
        # Coarse, so that it is far larger than what two engines differ by.
        {
            "targets": ["linear", "lm_head"],
            "error": "accumulate",
            "options": {"chunk": 4, "fraction": 8},
        },
        # A part of a fused layer with an input of its own, and a layer with a weight of its own.
        {"targets": ["*.layers.0.*q_proj"], "error": "mxfp8_e4m3", "point": "input"},
        {"targets": ["*.layers.1.*down_proj"], "error": "mxfp8_e4m3", "point": "weight"},
    ],
}
SHAPE = {"hidden": 128, "heads": 4, "kv": 2, "inner": 256, "tied": False}


@dataclass
class Case:
    dtype: str
    model: Path
    clean: list[Record]
    engine: Engine


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    dtype = request.param
    path = tmp_path_factory.mktemp(dtype)
    env = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CACHE_ROOT": str(path / "cache")}
    model = make_model(path / "model", dtype=dtype, **SHAPE)
    common = {"model": str(model), "dtype": dtype}
    engine = Engine(path / "clean.log", env, **common)
    clean = engine.logprobs(*PROMPTS)
    engine.close()
    noise = {"hetero_noise": SPEC}
    engine = Engine(
        path / "noisy.log", env, quantization="hetero_noise", additional_config=noise, **common
    )
    yield Case(dtype, model, clean, engine)
    engine.close()


def test_scale_zero_is_vllm_and_one_is_the_same_again(case: Case) -> None:
    first = case.engine.logprobs(*PROMPTS)
    assert first != case.clean
    case.engine.set(scale=0.0)
    assert case.engine.logprobs(*PROMPTS) == case.clean
    case.engine.set(reset=True)
    assert case.engine.logprobs(*PROMPTS) == first
