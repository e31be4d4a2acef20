"""The checks, in the order in which a first half hour on a card is best spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """One check: a process of its own with a time limit.

    ``run`` is ``module:function`` in this package, called with a `Size`, a `Report` and
    ``arguments``. ``rehearsal`` says why it has no short form on a CPU, or is empty.
    """

    name: str
    good: str
    run: str
    limit: int
    needs: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    rehearsal: str = ""


ENGINE = ("vllm", "transformers", "memory:24")
HF = ("transformers", "memory:24")
NO_GRAPHS = "a CPU has no CUDA graphs"
IN_TESTS = "the engine tests run it on a CPU"
PLAIN = {"VLLM_PLUGINS": ""}
V1, V2 = {"VLLM_USE_V2_MODEL_RUNNER": "0"}, {"VLLM_USE_V2_MODEL_RUNNER": "1"}

CHECKS = (
    Check("doctor", "nothing wrong; the Triton kernel", "kernel:doctor", 60),
    Check("kernel-tests", "all pass, bit for bit in bfloat16", "kernel:tests", 240,
          rehearsal="the suite runs them"),
    Check(
        "memcheck", "no access outside a tensor", "kernel:memcheck", 240,
        ("program:compute-sanitizer",),
    ),
    Check(
        "kernel-speed", "copy ÷ noise >= 0.80, scale 0 <= 1.1 copies", "kernel:speed", 180,
        ("memory:24",),
    ),
    Check("gpu-beside-cpu", "the same integers; float32 within 10 floors", "hf:on_cpu", 120,
          ("transformers",)),
    Check("hf-exact", "every site attested; scale 0 bit for bit", "hf:exact", 240, HF),
    Check("hf-rows", "batch and padding change what they change clean", "hf:rows", 120, HF),
    Check("hf-graph", "a replay follows step and scale", "hf:graph", 120, HF, rehearsal=NO_GRAPHS),
    Check("hf-compile", "attested compiled; nothing compiled for a step", "hf:compiled", 300, HF),
    Check("hf-checkpointing", "recomputed noise is the same", "training:checkpointing", 180, HF),
    Check("hf-fsdp2", "two packed steps, one noise in two runs", "training:fsdp2", 180, HF),
    Check("hf-cost", "step <= 1.15 x clean, memory <= 1.02", "training:cost", 180, HF),
    Check("hf-decode", "graphed: decode <= 1.03 x clean, prefill 1.10", "kernel:graphed", 240, HF,
          rehearsal=NO_GRAPHS),
    Check("vllm-clean", "a plain engine, for comparison", "engine:clean", 300, ENGINE, env=PLAIN),
    Check("vllm-linear", "attested; steps, lengths, launches; decode >= 0.90 of clean",
          "engine:linear", 420, ENGINE),
    Check("vllm-beside-hf", "one noise in both engines", "engine:beside_hf", 180, ENGINE),
    Check("vllm-again", "from the cache, bit for bit the first start", "engine:again", 240, ENGINE),
    Check("vllm-eager", "the noise of the graphs", "engine:eager", 240, ENGINE),
    Check("vllm-piecewise", "the noise of the full graphs", "engine:piecewise", 300, ENGINE,
          rehearsal=NO_GRAPHS),
    Check("vllm-v1", "the same noise on runner V1", "engine:other_runner", 300, ENGINE, env=V1,
          rehearsal=NO_GRAPHS),
    Check("vllm-v2", "the same noise on runner V2", "engine:other_runner", 300, ENGINE, env=V2,
          rehearsal="V2 needs Triton on a GPU, or its interpreter"),
    Check("vllm-sleep", "level 2, new weights: what they give awake", "engine:sleep", 300, ENGINE),
    Check("vllm-qwen3-clean", "a plain engine, for comparison", "engine:clean", 300, ENGINE,
          {"kind": "qwen3"}, PLAIN, rehearsal="Qwen3 is rehearsed without a plain engine"),
    Check("vllm-qwen3", "every kind attested", "engine:families", 420, ENGINE, {"kind": "qwen3"}),
    Check("vllm-fp8", "an FP8 checkpoint starts and is attested", "engine:fp8", 300, ENGINE,
          rehearsal="FP8 kernels are a GPU's"),
    Check("vllm-moe", "a mixture of experts starts and is attested", "engine:families", 300, ENGINE,
          {"kind": "qwen3_moe"}, rehearsal=IN_TESTS),
    Check("verl", "two noisy GRPO steps on FSDP2, attested", "grpo:two_steps", 600,
          ("verl", "ray", "vllm", "memory:40"), rehearsal=IN_TESTS),
)  # fmt: skip
