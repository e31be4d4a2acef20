"""Hugging Face and vLLM compute with the same error: three shapes, three scopes, two dtypes.

Over 2,135 tokens a case, the log-probabilities of the two noisy engines differ by little more than
those of the two clean ones, and the noise moves them by over ten times that. The engines' own gap
is the yardstick because nothing finer can be asked. In float32 their sums run in other orders: the
largest difference, at most 1.5 times the clean one (floor 2e-5, some units in the last place of a
sum over the widest layer). In bfloat16 they round after other operations, each token elsewhere: the
root mean square, at most 1.25 times the clean one (1.03 to 1.07 measured; 2,135 values that
scatter independently give it to 2 %). Their largest is one token's luck and another on each CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines.vllm_engine import Engine, make_model
from tests.engines.yardstick import hf_logprobs, hf_model, prompts_of

pytestmark = pytest.mark.engine

PROMPTS = [[3 + (j * 17 + i * 5 + j * j) % 190 for j in range(120 + 5 * i)] for i in range(14)]
FLOOR = {"float32": 2e-5, "bfloat16": 0.0}
BOUND = {"float32": 1.5, "bfloat16": 1.25}
SHAPES: dict[str, dict[str, Any]] = {
    "tied": {"hidden": 64, "heads": 2, "kv": 1, "inner": 160, "tied": True},
    "grouped": {"hidden": 128, "heads": 4, "kv": 2, "inner": 256, "tied": False},
    "wide": {"hidden": 192, "heads": 6, "kv": 6, "inner": 448, "tied": False, "vocab": 263},
}
# The rule's targets as Hugging Face gets them, and what the running engine turns off for the same.
SCOPES: dict[str, tuple[list[str], list[str]]] = {
    "linear": (["linear"], ["norm", "activation"]),
    "all": (["linear", "norm"], ["activation"]),
    "all-activation-head": (["linear", "norm", "activation"], []),
}


WEIGHT = {"targets": ["linear"], "error": "nvfp4", "point": "weight"}
INPUT = {"targets": ["linear"], "exclude": ["lm_head"], "error": "nvfp4", "point": "input"}
FORMATS: dict[str, list[dict[str, Any]]] = {"nvfp4-w4a16": [WEIGHT], "nvfp4-w4a4": [WEIGHT, INPUT]}


def spec(scope: str) -> dict[str, Any]:
    return {"rules": [{"targets": SCOPES[scope][0], "scale": 0.05}], "seed": 21}


def engine_spec() -> dict[str, Any]:
    """The widest scope, and the formats, which the engine switches rule by rule."""
    widest = spec("all-activation-head")
    return {**widest, "rules": [*widest["rules"], WEIGHT, INPUT]}


ELSEWHERE = {("tied", "float32"), ("grouped", "bfloat16")}
"""test_vllm_noise.py has engines of these, with error at more points."""


@dataclass
class Case:
    dtype: str
    model: Path
    engine: Engine
    clean: tuple[list[float], list[float]]
    """Hugging Face's and the engine's."""


CASES = [(shape, dtype) for shape in SHAPES for dtype in FLOOR if (shape, dtype) not in ELSEWHERE]


@pytest.fixture(scope="module", params=CASES, ids=lambda pair: "-".join(pair))
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    shape, dtype = request.param
    path = tmp_path_factory.mktemp(f"{shape}-{dtype}")
    model = make_model(path / "model", dtype=dtype, **SHAPES[shape])
    engine = Engine(
        path / "log.txt",
        {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        model=str(model),
        dtype=dtype,
        quantization="hetero_noise",
        additional_config={"hetero_noise": engine_spec()},
    )
    engine.set(scale=0.0)
    yield Case(dtype, model, engine, (of_hf(model, dtype, None), asked(engine)))
    engine.close()


def flat(answers: list[list[float]]) -> list[float]:
    return [value for answer in answers for value in answer]


def of_hf(path: Path, dtype: str, noise: dict[str, Any] | None) -> list[float]:
    """Every token's log-probability after the first, prompt by prompt."""
    from hetero_plugin.hf import wrap

    model = hf_model(path, dtype, "sdpa")
    if noise is not None:
        wrap(model, noise)
    return flat(hf_logprobs(model, PROMPTS))


def asked(engine: Engine) -> list[float]:
    """The same of an engine, as it is set."""
    return flat(prompts_of(engine.logprobs(*PROMPTS)))


def gap(dtype: str, a: list[float], b: list[float]) -> float:
    """How far two engines are apart, in the measure of the dtype."""
    apart = [abs(u - v) for u, v in zip(a, b, strict=True)]
    return max(apart) if dtype == "float32" else math.hypot(*apart) / math.sqrt(len(apart))


def hold(
    dtype: str, clean: tuple[list[float], list[float]], noisy: tuple[list[float], list[float]]
) -> None:
    """The noisy engines are as far apart as the clean ones, and the noise is far larger.

    Args:
        clean: Hugging Face's log-probabilities without noise, and vLLM's.
        noisy: with it.
    """
    assert len(noisy[1]) >= 2000
    clean_gap, apart = gap(dtype, *clean), gap(dtype, *noisy)
    effect = gap(dtype, noisy[0], clean[0])
    print(f"clean engines {clean_gap:.2g}, noisy engines {apart:.2g}, noise {effect:.2g}")
    assert apart <= max(BOUND[dtype] * clean_gap, FLOOR[dtype])
    assert effect >= 10 * max(clean_gap, FLOOR[dtype])


@pytest.mark.parametrize("scope", list(SCOPES))
def test_the_error_is_the_same_number_in_both_engines(case: Case, scope: str) -> None:
    case.engine.rules(0.05, 0.0, 0.0)
    for kind in SCOPES[scope][1]:
        case.engine.set(scale=0.0, kind=kind)
    noisy = of_hf(case.model, case.dtype, spec(scope))
    hold(case.dtype, case.clean, (noisy, asked(case.engine)))


@pytest.mark.parametrize("preset", list(FORMATS))
def test_a_number_format_gives_the_same_number_in_both_engines(case: Case, preset: str) -> None:
    rules = FORMATS[preset]
    case.engine.rules(0.0, *[float(rule in rules) for rule in (WEIGHT, INPUT)])
    noisy, ours = of_hf(case.model, case.dtype, {"rules": rules}), asked(case.engine)
    if INPUT in rules:
        # Activations of the two engines differ in their last bits, and a value beside a tie of four
        # bits goes up in one and down in the other: one function of inputs that are not the same.
        # (0.19 where the formats moved them by 2.3 in float32, 0.37 and 0.56 in bfloat16.)
        clean = case.clean[0]
        assert gap(case.dtype, ours, noisy) < gap(case.dtype, noisy, clean)
        assert gap(case.dtype, noisy, clean) >= 10 * gap(case.dtype, *case.clean)
    else:
        hold(case.dtype, case.clean, (noisy, ours))
