"""What versions of vLLM have differently, shown by making the installed one so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("vllm")

from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
from vllm.model_executor.layers.vocab_parallel_embedding import (
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm.head import NoisyHeadMethod
from hetero_plugin.vllm.install import _check_head
from hetero_plugin.vllm.quantization import HeteroNoiseQuantConfig
from hetero_plugin.vllm.rows import Rows
from hetero_plugin.vllm.walker import Walker

pytestmark = pytest.mark.compat("registration", short=True)

SITES = (Site("lm_head", "lm_head", None, 6, 4),)


@pytest.mark.parametrize("name", ["get_cache_scale_mapper", "get_checkpoint_weight_mapper"])
@pytest.mark.parametrize("kind", ["object", "static", "class"])
def test_a_mapper_of_any_kind_is_vllms_own(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs: Any = {
        "object": lambda self: "theirs",
        "static": staticmethod(lambda: "theirs"),
        "class": classmethod(lambda cls: "theirs"),
    }[kind]
    monkeypatch.setattr(QuantizationConfig, name, theirs, raising=False)
    assert getattr(HeteroNoiseQuantConfig(), name)() == "theirs"


class Theirs(SimpleNamespace):
    """A checkpoint's quantization, as vLLM 0.24 has it: without suffixes to ignore."""

    packed_modules_mapping: dict[str, list[str]] = {}  # noqa: RUF012

    def get_cache_scale_mapper(self) -> str:
        return "the checkpoint's"

    def is_mxfp4_quant(self, prefix: str, layer: Any) -> bool:
        return prefix == "experts"


def test_a_checkpoints_quantization_answers_what_it_is_asked() -> None:
    config = HeteroNoiseQuantConfig(inner=Theirs())  # type: ignore[arg-type]
    assert config.get_cache_scale_mapper() == "the checkpoint's"
    assert config.is_mxfp4_quant("experts", None) and not config.is_mxfp4_quant("mlp", None)
    assert not HeteroNoiseQuantConfig().is_mxfp4_quant("experts", None)
    class_wide = getattr(QuantizationConfig, "_ignore_unexpected_suffixes", None)
    assert getattr(config, "_ignore_unexpected_suffixes", None) == class_wide


def embedding() -> VocabParallelEmbedding:
    """Six words of four features on one rank, without vLLM's distributed set-up."""
    made = VocabParallelEmbedding.__new__(VocabParallelEmbedding)
    nn.Module.__init__(made)
    made.weight = nn.Parameter(torch.randn(6, 4), requires_grad=False)
    made.cpu_linear = nn.functional.linear  # what processing after loading leaves there
    made.embedding_dim = 4
    made.quant_method = UnquantizedEmbeddingMethod()
    made.shard_indices = SimpleNamespace(org_vocab_start_index=0, org_vocab_end_index=6)
    return made


def model_of(embed: VocabParallelEmbedding, head: bool) -> nn.Module:
    model = nn.Module()
    model.embed_tokens = embed
    if head:
        model.lm_head = embed
    return model


def walker() -> Walker:
    state = NoiseState(NoiseConfig(targets=["lm_head"], scale=0.1), SITES, max_rows=8)
    return Walker(state, SITES, "qwen2", Rows(state))


def test_a_tied_head_that_is_the_embedding_is_found_and_lookups_stay_clean() -> None:
    embed, found = embedding(), walker()
    found.walk(model_of(embed, head=True))
    assert found.carried == {"lm_head"}
    method = embed.quant_method
    assert isinstance(method, NoisyHeadMethod) and method.attached and method.noise is not None
    assert method.noise.columns == 6 and method.noise.output
    words = torch.tensor([5, 0, 3])
    assert torch.equal(method.embedding(embed, words), embed.weight[words])
    hidden = torch.randn(2, 4)
    found.rows.before_forward(
        model_of(embed, head=True), (torch.tensor([1, 2]), torch.tensor([0, 1])), {}
    )
    found.rows.pick(torch.tensor([0, 1]))
    noisy = method.apply(embed, hidden)
    assert not torch.equal(noisy, hidden @ embed.weight.T)


def test_an_embedding_that_is_no_head_is_left_alone() -> None:
    embed, found = embedding(), walker()
    found.walk(model_of(embed, head=False))
    assert found.carried == set()  # `attach` refuses a selected site that no layer carries
    assert type(embed.quant_method) is UnquantizedEmbeddingMethod


@pytest.mark.parametrize("dtype", ["absent", None, torch.float32, torch.bfloat16])
def test_a_head_of_another_dtype_is_refused_where_there_can_be_one(dtype: Any) -> None:
    model = model_of(embedding(), head=True)
    walker().walk(model)
    processor = LogitsProcessor.__new__(LogitsProcessor)
    nn.Module.__init__(processor)
    if dtype != "absent":
        processor.head_dtype = dtype
    model.logits_processor = processor
    if dtype is torch.bfloat16:
        with pytest.raises(ConfigError, match=r"head_dtype is torch\.bfloat16"):
            _check_head(model)
    else:
        _check_head(model)


def traced(function: Any, *args: Any) -> Any:
    """Through the tracer of the installed PyTorch, whole, and run without generated code."""
    torch._dynamo.reset()
    return torch.compile(function, backend="eager", fullgraph=True)(*args)


COLUMNS = (Site("mlp.up_proj", "linear", 0, 6, 4), Site("norm", "norm", None, 4, 4))
POINTS = {
    "rules": [{"targets": ["linear", "norm"], "scale": 0.1}]
    + [{"targets": ["linear"], "point": p, "scale": 0.1} for p in ("input", "weight")]
}


def test_the_tracer_can_follow_what_layers_do() -> None:
    """PyTorch 2.11 (vLLM 0.24's) could not follow a chain's truth value."""
    from hetero_plugin.operator import Chain
    from hetero_plugin.vllm.linear import LinearNoise, NoisyLinearMethod, RowSlice

    state = NoiseState(NoiseConfig.parse(POINTS), COLUMNS, max_rows=8)
    output, inside, weight = (
        Chain.of(state, stream, [("mlp.up_proj", width, 0)])
        for stream, width in (("output", 6), ("input", 4), ("weight", 4))
    )
    absent = Chain.of(state, "output", [("elsewhere", 6, 0)])
    state.set_rows(torch.arange(3), torch.arange(3))
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.randn(6, 4), requires_grad=False)
    layer.bias, layer.cpu_linear = None, nn.functional.linear
    method = NoisyLinearMethod()
    x = torch.randn(3, 4)
    part = RowSlice(0, 6, 0, inside, weight, state.device)
    part.weight, part.bias, part.cpu_linear = layer.weight, None, nn.functional.linear
    for noise in (
        LinearNoise(state, output, None),
        LinearNoise(state, absent, inside),
        LinearNoise(state, output, None, [part]),
    ):
        method.noise = noise
        plain = method.apply(layer, x)
        assert not torch.equal(plain, x @ layer.weight.T)
        assert torch.equal(traced(method.apply, layer, x), plain)


def test_experts_that_route_and_compute_in_one_step_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hetero_plugin.vllm import experts

    method = experts.NoisyExpertsMethod.__new__(experts.NoisyExpertsMethod)
    method.unquantized_backend = experts.UnquantizedMoeBackend.CPU
    monkeypatch.setattr(experts.NoisyExpertsMethod, "is_monolithic", True)
    layer = SimpleNamespace(quant_method=method, moe_config=None)
    with pytest.raises(ConfigError, match=r"mlp\.experts can't have error: .* in one step"):
        experts.activation_of(layer, "model.layers.0.mlp.experts")
