"""Experts under tensor parallelism: each rank has a share of every expert's columns.

The yardstick is Hugging Face, one process and whole experts. The sum over ranks of the experts'
last GEMM is left to a later layer by vLLM, so that its output has no error here; selected without
`partial: true` it is an error at start, which the second test sees.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines.families import PROMPTS, make
from tests.engines.vllm_engine import Engine, EngineError
from tests.engines.yardstick import gap, hf_logprobs, prompts_of
from tests.faults.tp_engine import TPEngine

pytestmark = pytest.mark.engine

SPEC: dict[str, Any] = {
    "rules": [
        {
            "targets": ["linear", "norm", "activation", "router"],
            "exclude": ["*.experts.down_proj"],
            "scale": 0.05,
        },
        {"targets": ["*.experts.*_proj"], "point": "input", "scale": 0.02},
        {"targets": ["*.experts.*_proj"], "point": "weight", "scale": 0.02},
    ],
    "seed": 5,
}


def start(model: Path, log: Path, spec: dict[str, Any]) -> TPEngine:
    return TPEngine(
        log,
        {"VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        model=str(model),
        dtype="float32",
        tensor_parallel_size=2,
        quantization="hetero_noise",
        additional_config={"hetero_noise": spec},
    )


@dataclass
class Case:
    hf: Any
    model: Path
    engine: Engine


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    path = tmp_path_factory.mktemp("moe_tp")
    # An expert's share of 40 columns starts inside a group of 128.
    model = make("qwen3_moe", path / "model", moe_intermediate_size=80)
    engine = start(path / "model", path / "log.txt", SPEC)
    yield Case(model, path / "model", engine)
    engine.close()


def test_the_error_of_an_expert_does_not_depend_on_sharding(case: Case) -> None:
    """Bound: half as much again as the clean engines differ; a floor of 2e-5 for float32 sums."""
    from hetero_plugin.hf import disabled, state_of, wrap

    engine, hf = case.engine, case.hf
    wrap(hf, SPEC, quiet=True)
    state = state_of(hf)
    assert engine.status()["sites"] == state.status()["sites"]
    engine.set(scale=0.0)
    with disabled(hf):
        clean = hf_logprobs(hf, PROMPTS)
    bound = max(1.5 * gap(prompts_of(engine.logprobs(*PROMPTS)), clean), 2e-5)
    assert bound < 1e-4, "the clean engines must agree for this to mean anything"
    experts = "model.layers.1.mlp.experts"
    alone = [{}] + [{"site": f"{experts}.{leaf}"} for leaf in ("gate_up_proj", "act_fn")]
    alone += [{"site": f"{experts}.down_proj"}, {"site": "model.layers.0.mlp.gate"}]
    for where in alone:
        if where:
            engine.set(scale=0.0)
            state.set_scale(0.0)
            engine.set(scale=0.05, **where)
            state.set_scale(0.05, **where)
        else:
            engine.set(reset=True)
        expected = hf_logprobs(hf, PROMPTS)
        assert gap(prompts_of(engine.logprobs(*PROMPTS)), expected) <= bound, where
        assert gap(expected, clean) >= 10 * bound, where


def test_an_output_that_is_summed_elsewhere_is_refused_at_start(case: Case, tmp_path: Path) -> None:
    spec = {"rules": [{"targets": ["*.experts.down_proj"], "scale": 0.05}]}
    log = tmp_path / "log.txt"
    with pytest.raises(EngineError):
        start(case.model, log, spec)
    assert re.search(r"experts leaves its sum over 2 .* partial=true", log.read_text())
