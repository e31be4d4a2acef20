"""What an attestation checks of number formats, on tensors; in models: tests/faults/hf_formats.py.
Ten seconds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from hetero_plugin import NoiseConfig, wrap
from hetero_plugin.attestation import attest, problems
from hetero_plugin.attestation.formats import FormatLook, format_word, grid_size
from hetero_plugin.config import FORMATS
from hetero_plugin.errors import error_model
from hetero_plugin.hf.probe import HFProbe
from hetero_plugin.operator import Chain
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState
from tests.hf.families import make_family

WORDS = [
    *FORMATS,
    "nvfp4|row|vllm",
    "nvfp4|max|torchao",
    "mxfp4|rceil|modelopt",
    "int8|row|max|symmetric",
]
IDEMPOTENT = {name for name in FORMATS if name.startswith("mx")} | {"mxfp4|rceil|modelopt"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("word", WORDS)
def test_each_format_passes(word: str, dtype: torch.dtype) -> None:
    """And where rounding again must change nothing, it is looked at."""
    x = torch.randn(64, 300, generator=torch.Generator().manual_seed(2)).to(dtype)
    y = error_model(word).function(x.float(), torch.tensor(1.0), None).to(dtype)
    look = FormatLook({"a"})
    look.add("a", word, 1.0, x, y)
    assert all(passed for _, passed, _ in look.checks()), look.checks()
    if word in IDEMPOTENT:
        assert look.again == 1


def test_the_numbers_of_a_grid() -> None:
    """As many as are counted in what a format gives of every float16."""
    every = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.float16)
    every = every[every.isfinite()].float()
    for word, amax in (("fp8_e4m3", 448.0), ("fp8_e5m2", 57344.0), ("int8", 127.5)):
        options = {"granularity": "tensor", "amax": amax}
        made = NoiseConfig(error=word, point="weight", options=options).rules[0].word
        x = every[None] * (1.0 if word != "int8" else 0.01)
        found = error_model(made).function(x, torch.tensor(1.0), None).unique().numel()
        assert found == grid_size(made), word
    assert (grid_size("mxfp4"), grid_size("nvfp4|max|vllm"), grid_size("int4")) == (15, 15, 16)


def test_a_blend_is_compared_with_the_blend() -> None:
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))
    right = error_model("mxfp4").function(x, torch.tensor(0.5), None)
    for y, good in (
        (right, True),
        (error_model("mxfp4").function(x, torch.tensor(0.6), None), False),
    ):
        look = FormatLook()
        look.add("a", "mxfp4", 0.5, x, y)
        assert all(passed for _, passed, _ in look.checks()) is good


def test_which_rules_are_looked_at() -> None:
    rules = NoiseConfig.parse("nvfp4-w4a4").rules
    site = Site("model.layers.0.mlp.up_proj", "linear", 0, 64, 32)
    experts = Site("model.layers.0.mlp.experts.gate_up_proj", "linear", 0, 64, 32)
    assert format_word(rules, "weight", site) == ("nvfp4|max|vllm", 1.0)
    assert format_word(rules, "weight", experts) == ("nvfp4|max|vllm|each:64", 1.0)
    for one in (site, experts):
        assert format_word(rules, "input", one) == ("nvfp4|row|vllm", 1.0)
        assert format_word(rules, "output", one) is None
        assert format_word([*rules, *rules], "weight", one) is None  # one after the other is none
        assert format_word(NoiseConfig(scale=0.1).rules, "output", one) is None


SHARED_INT8 = {"granularity": "tensor", "share": "fused"}


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        ("qwen2", "nvfp4-w4a4"),
        ("qwen2", {"error": "int8", "point": "weight", "options": SHARED_INT8}),
        ("qwen2", {"error": "hif4", "targets": ["attention", "norm", "activation"]}),
        ("qwen3_moe", {"error": "mxfp4", "scale": 0.5, "point": "input", "layers": [0]}),
    ],
    ids=str,
)
def test_models_are_attested_with_what_was_found(family: str, spec: Any) -> None:
    probe = HFProbe(wrap(make_family(family, torch.bfloat16), spec, quiet=True))
    record = attest(probe)
    assert problems(record) == []
    told = {check["name"]: check["detail"] for check in record["checks"]}
    assert "to the bit" in told["formats: values are the reference's"]
    assert told["the same input has the same error"].startswith("largest difference 0")


def test_the_operators_of_a_worker() -> None:
    """A model with chains on it, as a vLLM worker has; right, and with one operator at fault."""
    pytest.importorskip("vllm")
    from hetero_plugin.kernels import reference
    from hetero_plugin.vllm.probe.formats import format_checks, of_ranks

    names = [f"model.layers.0.self_attn.{leaf}_proj" for leaf in "qkv"]
    sites = [Site(name, "linear", 0, 64, 96) for name in names]
    rules = [
        {"targets": [names[0], names[2]], "error": "mxfp8_e4m3", "point": "output"},
        {"targets": names, "error": "nvfp4", "point": "input"},
    ]
    state = NoiseState(NoiseConfig(rules=rules), sites)
    model = nn.Module()
    output = Chain.of(state, "output", [(name, 64, 0) for name in names])
    inputs = [Chain.of(state, "input", [(name, 96, 0)]) for name in names]
    model.chains = [output, *inputs]  # type: ignore[assignment]
    right = format_checks(model, state)
    assert all(passed for _, passed, _ in right) and len(right) == 6
    assert "5 tensors" in str(right)  # two parts of the outputs, three inputs
    for stage in (stage for chain in model.chains for stage in chain.stages):  # type: ignore[union-attr]
        stage.native = False
    known = reference.error_model
    with pytest.MonkeyPatch.context() as patch:
        other = SimpleNamespace(
            **vars(known("mxfp8_e4m3")) | {"function": lambda x, s, z: x * 1.01}
        )
        patch.setattr(reference, "error_model", lambda n: other if n[:3] == "mxf" else known(n))
        wrong = format_checks(model, state)
    assert not all(passed for _, passed, _ in wrong)
    both = of_ranks([right, wrong])
    assert [name for name, *_ in both] == [name for name, *_ in right]
    assert any(
        not passed and "rank 1: " in detail and "q_proj" in detail for _, passed, detail in both
    )
    assert any(not passed for _, passed, _ in of_ranks([right, []]))
