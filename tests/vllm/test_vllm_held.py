"""A weight with a fixed error is computed once, and never from another weight than the present one.

Real linear methods of vLLM's on a CPU, whose GEMM reads a packed copy; no engine. About 3 seconds.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("vllm")

from hetero_plugin.config import NoiseConfig
from hetero_plugin.errors.formats import FORMATS
from hetero_plugin.operator import Chain
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm import linear
from hetero_plugin.vllm.held import HeldWeight, HeldWeights
from hetero_plugin.vllm.linear import LinearNoise, NoisyLinearMethod, RowSlice

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"
SITES = (Site(Q, "linear", 0, 48, 64), Site(K, "linear", 0, 16, 64))
DTYPES = [torch.bfloat16, torch.float32]


class Layer(nn.Module):
    """A fused layer of two sites, as vLLM loads it."""

    def __init__(self, dtype: torch.dtype, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(64, 64).to(dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.randn(64).to(dtype), requires_grad=False) if bias else None


def made(
    dtype: torch.dtype, *rules: dict[str, Any], bias: bool = False
) -> tuple[Layer, NoisyLinearMethod, NoiseState, HeldWeights]:
    rules = rules or ({"targets": ["linear"], "error": "mxfp4", "point": "weight"},)
    state = NoiseState(NoiseConfig.parse({"rules": list(rules)}), SITES, max_rows=64)
    state.set_phase("rollout")
    state.set_rows(torch.arange(5), torch.arange(5))
    layer, method = Layer(dtype, bias), NoisyLinearMethod()
    method.attached = True
    method.process_weights_after_loading(layer)
    outputs = [(Q, 48, 0), (K, 16, 0)]
    weights = [Chain.of(state, "weight", [(name, 64, 0)]) for name in (Q, K)]
    inputs = [Chain.of(state, "input", [(name, 64, 0)]) for name in (Q, K)]
    keep = any(inputs)
    held = linear._held(state, "qkv_proj", layer, outputs, weights, keep)
    parts = []
    for start, (name, width, first), x in zip((0, 48), outputs, inputs, strict=True):
        if any(inputs):
            empty = Chain("weight", ((name, 64, 0),))
            parts.append(RowSlice(start, width, first, x, empty, state.device))
            held.followers.append(parts[-1].follow)
    output = Chain.of(state, "output", outputs)
    method.noise = LinearNoise(state, output, None, parts, held=held)
    every = HeldWeights()
    every.all.append(held)
    every.fresh()
    return layer, method, state, every


def clean(weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """vLLM's own result for a weight."""
    layer = Layer(weight.dtype, bias is not None)
    layer.weight.data.copy_(weight)
    if bias is not None and layer.bias is not None:
        layer.bias.data.copy_(bias)
    method = NoisyLinearMethod()
    method.attached = True
    method.process_weights_after_loading(layer)
    return method.apply(layer, x, layer.bias)


def quantised(weight: Tensor, scale: float = 1.0) -> Tensor:
    q = FORMATS["mxfp4"].apply(weight.float())
    return (q if scale == 1 else weight.float() + scale * (q - weight.float())).to(weight.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_the_layers_own_gemm_multiplies_the_quantised_weight(
    dtype: torch.dtype, bias: bool
) -> None:
    """Bit for bit what vLLM gives for a checkpoint of these values, at any scale; 0: the clean."""
    layer, method, state, held = made(dtype, bias=bias)
    given = None if layer.bias is None else layer.bias.detach().clone()
    x = torch.randn(5, 64).to(dtype)
    for scale in (1.0, 0.0, 0.5, 1.0):
        state.set_scale(scale)
        held.fresh()
        wanted = quantised(layer.weight.data, scale) if scale else layer.weight.data
        assert torch.equal(method.apply(layer, x, layer.bias), clean(wanted, x, given))
        assert held.stale() == []
    state.set_scale(0.0, site=K)
    held.fresh()
    wanted = torch.cat([quantised(layer.weight.data[:48]), layer.weight.data[48:]])
    assert torch.equal(method.apply(layer, x, layer.bias), clean(wanted, x, given))


def by_version(layer: Layer, method: NoisyLinearMethod, held: HeldWeights, new: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(new)


def by_address(layer: Layer, method: NoisyLinearMethod, held: HeldWeights, new: Tensor) -> None:
    layer.weight.data = new.clone()


def by_a_sync(layer: Layer, method: NoisyLinearMethod, held: HeldWeights, new: Tensor) -> None:
    layer.weight.data.copy_(new)  # as vLLM's weight loaders do
    method.process_weights_after_loading(layer)


def by_loading(layer: Layer, method: NoisyLinearMethod, held: HeldWeights, new: Tensor) -> None:
    layer.weight.data.copy_(new)
    held.outdate()  # around the model's load_weights


def unseen(layer: Layer, method: NoisyLinearMethod, held: HeldWeights, new: Tensor) -> None:
    layer.weight.data.copy_(new)
    assert held.stale() == ["qkv_proj"]  # what attestation asks
    assert held.find_rewritten()  # after every call of others to the workers


@pytest.mark.parametrize("change", [by_version, by_address, by_a_sync, by_loading, unseen])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_changed_weight_is_seen(dtype: torch.dtype, change: Any) -> None:
    layer, method, _, held = made(dtype)
    x = torch.randn(5, 64).to(dtype)
    assert not held.find_rewritten()
    new = layer.weight.data * 1.25 + 0.1
    change(layer, method, held, new)
    held.fresh()
    assert torch.equal(method.apply(layer, x), clean(quantised(new), x))
    assert held.stale() == [] and not held.find_rewritten()


def test_one_changed_bit_is_seen_by_the_digest() -> None:
    layer, _, _, held = made(torch.bfloat16)
    bits = layer.weight.data.view(torch.int16)
    bits[37, 11] ^= 1
    assert held.find_rewritten()


def test_nothing_is_computed_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, state, held = made(torch.bfloat16)
    runs = []
    refresh = HeldWeight.refresh
    monkeypatch.setattr(HeldWeight, "refresh", lambda self: (runs.append(1), refresh(self)))
    for _ in range(3):
        held.fresh()
        state.set_step(state.step + 1)  # a fixed error has no step
    assert runs == []
    state.set_scale(0.5, site=Q)
    held.fresh()
    assert runs == [1]


def test_a_random_error_on_weights_is_not_held() -> None:
    rules = [
        {"targets": ["linear"], "scale": 0.1, "point": "weight"},
        {"targets": ["linear"], "error": "systematic_bias", "scale": 0.1, "point": "weight"},
        {"targets": ["linear"], "error": "truncation", "scale": 0.1, "point": "weight"},
        {
            "targets": ["linear"],
            "error": "systematic_bias",
            "scale": 0.1,
            "point": "weight",
            "rounding": "nearest",
        },
    ]
    fixed = []
    for rule in rules:
        state = NoiseState(NoiseConfig.parse({"rules": [rule]}), SITES)
        fixed.append(Chain.of(state, "weight", [(Q, 64, 0)]).fixed)
    assert fixed == [False, False, True, True]  # rounded stochastically, an error is drawn


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_with_inputs_of_their_own_multiply_the_held_rows(dtype: torch.dtype) -> None:
    rules = [
        {"targets": ["linear"], "error": "mxfp4", "point": "weight"},
        {"targets": ["linear"], "error": "mxfp8_e4m3", "point": "input"},
    ]
    layer, method, state, held = made(dtype, *rules)
    x = torch.randn(5, 64).to(dtype)
    read = FORMATS["mxfp8_e4m3"].apply(x.float()).to(dtype)
    # The reference in float64; bfloat16 results are rounded once, float32 sums differ in order.
    q = quantised(layer.weight.data).double()
    wanted = read.double() @ q.T
    bound = {torch.bfloat16: 2.0**-8, torch.float32: 1e-6}[dtype]
    apart = (method.apply(layer, x).double() - wanted).abs()
    assert bool((apart <= bound * (read.double().abs() @ q.abs().T)).all())
    new = layer.weight.data * 1.25
    layer.weight.data.copy_(new)
    held.outdate()
    held.fresh()
    wanted = read.double() @ quantised(new).double().T
    apart = (method.apply(layer, x).double() - wanted).abs()
    assert bool((apart <= bound * (read.double().abs() @ quantised(new).double().abs().T)).all())
    state.set_scale(0.0)
    held.fresh()
    assert torch.equal(method.apply(layer, x), clean(new, x))


def test_parts_that_share_a_scale_are_rounded_as_one_weight() -> None:
    """NVFP4 with one scale of the tensor for q and k: that of the fused weight."""
    rule = {"targets": ["linear"], "error": "nvfp4", "point": "weight"}
    layer, method, _, held = made(torch.bfloat16, {**rule, "options": {"share": "fused"}})
    layer.weight.data[60] *= 5
    held.outdate()
    held.fresh()
    x = torch.randn(5, 64).bfloat16()
    fused = FORMATS["nvfp4"].apply(layer.weight.data.float()).bfloat16()
    assert torch.equal(method.apply(layer, x), clean(fused, x))
    assert held.stale() == []
