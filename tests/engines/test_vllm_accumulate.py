"""Products added up as on another machine, in a compiled vLLM engine: clean at scale 0, equal to
Hugging Face's at 1, by way of the fused GEMM and of the parts' own."""

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


def values(records: list[Record]) -> list[float]:
    return [value for record in records for value in record["prompt"]]


def hugging_face(case: Case, spec: dict[str, Any] | None) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM

    from hetero_plugin.hf import wrap

    model = AutoModelForCausalLM.from_pretrained(case.model, dtype=getattr(torch, case.dtype))
    if spec is not None:
        wrap(model.eval(), spec, quiet=True)
    found: list[float] = []
    with torch.no_grad():
        for prompt in PROMPTS:
            rows = model(torch.tensor([prompt])).logits[0, :-1].float().log_softmax(-1)
            found += [float(row[token]) for row, token in zip(rows, prompt[1:], strict=True)]
    return found


def gaps(a: list[float], b: list[float]) -> tuple[float, float]:
    """The largest difference, and the root of the mean square."""
    apart = [abs(u - v) for u, v in zip(a, b, strict=True)]
    return max(apart), (sum(x * x for x in apart) / len(apart)) ** 0.5


def test_the_engine_is_the_hugging_face_model(case: Case) -> None:
    """Log-probabilities: no further apart than 1.5 times the clean ones, in the mean square."""
    engine = values(case.engine.logprobs(*PROMPTS))
    clean = gaps(values(case.clean), hugging_face(case, None))
    noisy = gaps(engine, hugging_face(case, SPEC))
    effect = gaps(engine, values(case.clean))
    print(f"{case.dtype}: clean {clean}, accumulate {noisy}, effect {effect}")
    assert noisy[1] <= 1.5 * clean[1] + 1e-6
    assert effect[1] > 5 * noisy[1]


def test_scale_zero_is_vllm_and_one_is_the_same_again(case: Case) -> None:
    first = case.engine.logprobs(*PROMPTS)
    case.engine.set(scale=0.0)
    assert case.engine.logprobs(*PROMPTS) == case.clean
    case.engine.set(reset=True)
    assert case.engine.logprobs(*PROMPTS) == first
