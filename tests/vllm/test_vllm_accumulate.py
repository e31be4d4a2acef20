"""vLLM's linear layers and head with products added up as another machine does; no engine.

Together they are Hugging Face's products bit for bit, by way of the fused matrix and of the parts'
own, traced too. tests/engines/test_vllm_noise.py and test_vllm_resample.py run models.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("vllm")

from vllm.model_executor.layers.linear import RowParallelLinear

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.operator import Chain, Product
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm.columns import check_product, check_rows
from hetero_plugin.vllm.head import HeadNoise, NoisyHeadMethod
from hetero_plugin.vllm.linear import (
    LinearNoise,
    NoisyLinearMethod,
    RowSlice,
    linear_noise,
)

Q, K, HEAD = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "lm_head"
SITES = (
    Site(Q, "linear", 0, 24, 40),
    Site(K, "linear", 0, 8, 40),
    Site(HEAD, "lm_head", None, 32, 40),
)
RULE = {"error": "accumulate", "options": {"chunk": 4, "fraction": 9}}
OWN = {"targets": ["*q_proj"], "error": "mxfp8_e4m3", "point": "weight"}


def state_of(*rules: dict[str, Any]) -> NoiseState:
    return NoiseState(NoiseConfig(rules=list(rules)), SITES, max_rows=8)


def layer_of(dtype: torch.dtype, bias: bool = True) -> tuple[Any, Tensor]:
    g = torch.Generator().manual_seed(0)
    layer: Any = nn.Module()
    weight = torch.randn(32, 40, generator=g).to(dtype)
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(torch.randn(32, generator=g).to(dtype), False) if bias else None
    layer.cpu_linear = nn.functional.linear
    return layer, torch.randn(5, 40, generator=g).to(dtype)


def hugging_face(state: NoiseState, x: Tensor, weight: Tensor, bias: Any, name: str) -> Tensor:
    """What `hf` computes at one site: `operator.linear`'s forward."""
    parts = [(name, weight.shape[0], 0)]
    y = nn.functional.linear(x, weight, bias)
    return Product.of(state, "product", parts)(x, weight, bias, y, state.draw)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("targets", ["linear", "*q_proj"])
def test_a_fused_layer(targets: str, bias: bool, dtype: torch.dtype) -> None:
    state = state_of({"targets": [targets], **RULE})
    layer, x = layer_of(dtype, bias)
    parts = [(Q, 24, 0), (K, 8, 0)]
    method = NoisyLinearMethod()
    product = Product.of(state, "product", parts)
    method.noise = LinearNoise(state, Chain.of(state, "output", parts), None, product=product)
    clean = nn.functional.linear(x, layer.weight, layer.bias)
    got = method.apply(layer, x, layer.bias)
    biases = (None, None) if layer.bias is None else (layer.bias[:24], layer.bias[24:])
    right = hugging_face(state, x, layer.weight[:24], biases[0], Q)
    assert torch.equal(got[:, :24], right)
    assert not torch.equal(right, clean[:, :24])
    rest = clean[:, 24:]
    if targets == "linear":
        rest = hugging_face(state, x, layer.weight[24:], biases[1], K)
    assert torch.equal(got[:, 24:], rest)
    state.set_enabled(False)
    assert torch.equal(method.apply(layer, x, layer.bias), clean)


def test_traced_once_and_switched() -> None:
    state = state_of({"targets": ["linear"], **RULE})
    layer, x = layer_of(torch.bfloat16)
    parts = [(Q, 24, 0), (K, 8, 0)]
    method = NoisyLinearMethod()
    product = Product.of(state, "product", parts)
    method.noise = LinearNoise(state, Chain.of(state, "output", parts), None, product=product)
    torch._dynamo.reset()
    seen = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(method.apply, backend=seen, fullgraph=True)
    whole = compiled(layer, x, layer.bias)
    assert torch.equal(whole, method.apply(layer, x, layer.bias))
    clean = nn.functional.linear(x, layer.weight, layer.bias)
    state.set_scale(0.0)
    assert torch.equal(compiled(layer, x, layer.bias), clean)
    state.set_scale(0.5)
    half = compiled(layer, x, layer.bias).float()
    middle = (whole.float() + clean.float()) / 2
    assert (half - middle).abs().max() <= 2.0**-8 * middle.abs().max()
    state.set_scale(1.0)
    assert torch.equal(compiled(layer, x, layer.bias), whole)
    assert seen.frame_count == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_with_weights_of_their_own(dtype: torch.dtype) -> None:
    state = state_of({"targets": ["linear"], **RULE}, OWN)
    layer, x = layer_of(dtype)
    method = NoisyLinearMethod()
    slices, start = [], 0
    for name, width in ((Q, 24), (K, 8)):
        chains = [Chain.of(state, stream, [(name, 40, 0)]) for stream in ("input", "weight")]
        product = Product.of(state, "product", [(name, width, 0)])
        part = RowSlice(start, width, 0, chains[0], chains[1], state.device, product)
        rows = slice(start, start + width)
        part.weight = nn.Parameter(layer.weight[rows], requires_grad=False)
        part.bias = nn.Parameter(layer.bias[rows], requires_grad=False)
        part.cpu_linear = nn.functional.linear
        slices.append(part)
        start += width
    output = Chain.of(state, "output", [(Q, 24, 0), (K, 8, 0)])
    method.noise = LinearNoise(state, output, None, slices)
    read = {slot.index for slot in state.slots if slot.site.name != HEAD}
    assert set(method.noise.entries.tolist()) == read
    got = method.apply(layer, x, layer.bias)
    q = slices[0].noisy_weight(state.draw)
    assert not torch.equal(q, layer.weight[:24])
    assert torch.equal(got[:, :24], hugging_face(state, x, q, layer.bias[:24], Q))
    k = layer.weight[24:]
    assert torch.equal(got[:, 24:], hugging_face(state, x, k, layer.bias[24:], K))
    state.set_enabled(False)
    clean = nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(method.apply(layer, x, layer.bias), clean)


def test_a_head_whose_rows_are_padded() -> None:
    state = state_of({"targets": ["lm_head"], **RULE})
    layer, x = layer_of(torch.bfloat16, bias=False)
    rows: Any = SimpleNamespace(keys_of=lambda x: torch.arange(x.shape[0]))
    method = NoisyHeadMethod()
    method.noise = HeadNoise(
        state,
        output=Chain.of(state, "output", [(HEAD, 30, 0)]),
        input=Chain.of(state, "input", [(HEAD, 40, 0)]),
        weight=Chain.of(state, "weight", [(HEAD, 40, 0)]),
        weight_rows=torch.arange(30),
        rows=rows,
        product=Product.of(state, "product", [(HEAD, 30, 0)]),
    )
    got = method.apply(layer, x)
    assert torch.equal(got[:, :30], hugging_face(state, x, layer.weight[:30], None, HEAD))
    assert torch.equal(got[:, 30:], nn.functional.linear(x, layer.weight)[:, 30:])


def test_a_piece_of_a_sum_is_refused_unless_it_is_meant() -> None:
    """A row-parallel layer of two ranks, as it is given its noise; the sum itself is seen in
    tests/engines/test_vllm_resample.py."""
    layer: Any = RowParallelLinear.__new__(RowParallelLinear)
    layer.__dict__.update(tp_size=2, tp_rank=1, input_size=40, input_size_per_partition=20)
    rules = [{"targets": ["linear"], **RULE}]
    parts = [(Q, 24, 0)]
    for partial in (False, True):
        state = NoiseState(NoiseConfig(rules=rules, partial=partial), SITES, max_rows=8)
        if partial:
            assert linear_noise(state, "o_proj", layer, parts, NoisyLinearMethod()).product
            continue
        with pytest.raises(ConfigError, match=r"adds up a piece of o_proj, .*partial=true"):
            linear_noise(state, "o_proj", layer, parts, NoisyLinearMethod())


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="not quantised"):
        check_product("a", "Fp8LinearMethod", False)
    with pytest.raises(ConfigError, match="partial=true"):
        check_product("a", "", True)
    check_product("a", "", False)
    state = state_of({"targets": ["*q_proj"], "error": "nvfp4", "point": "weight"})
    weight = Chain.of(state, "weight", [(Q, 40, 0)])
    check_rows(state, weight, 24)
    with pytest.raises(ConfigError, match="12 of the 24 rows"):
        check_rows(state, weight, 12)
