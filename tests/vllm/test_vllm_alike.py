"""Sites of a fused layer whose inputs are in one number format: one GEMM, or each its own.

Real linear methods of vLLM's on a CPU, whose GEMM reads a packed copy; no engine. A few seconds.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("vllm")

from hetero_plugin.config import NoiseConfig
from hetero_plugin.operator import Chain
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm.alike import OneInput
from hetero_plugin.vllm.linear import LinearNoise, NoisyLinearMethod, RowSlice

Q, K = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"
SITES = (Site(Q, "linear", 0, 48, 64), Site(K, "linear", 0, 16, 64))
DTYPES = [torch.bfloat16, torch.float32]
BLOCKS = {"targets": ["linear"], "error": "mxfp4", "point": "input"}
ROWS = {"targets": ["linear"], "error": "int8", "point": "input"}
ODD = {
    "targets": ["linear"],
    "error": "nvfp4",
    "point": "input",
    "options": {"reference": "modelopt"},  # as tensor operations
}


class Layer(nn.Module):
    """A fused layer of two sites, as vLLM loads it."""

    def __init__(self, dtype: torch.dtype, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(64, 64).to(dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.randn(64).to(dtype), requires_grad=False) if bias else None


def made(
    dtype: torch.dtype, *rules: dict[str, Any], bias: bool = False
) -> tuple[Layer, NoisyLinearMethod, NoiseState, list[Chain]]:
    state = NoiseState(NoiseConfig.parse({"rules": list(rules)}), SITES, max_rows=64)
    state.set_phase("rollout")
    state.set_rows(torch.arange(5), torch.arange(5))
    layer, method = Layer(dtype, bias), NoisyLinearMethod()
    method.attached = True
    method.process_weights_after_loading(layer)
    inputs = [Chain.of(state, "input", [(name, 64, 0)]) for name in (Q, K)]
    parts = []
    for start, width, name, chain in zip((0, 48), (48, 16), (Q, K), inputs, strict=True):
        none = Chain("weight", ((name, 64, 0),))
        parts.append(RowSlice(start, width, 0, chain, none, state.device))
        parts[-1].follow(layer)
    output = Chain("output", ((Q, 48, 0), (K, 16, 0)))
    method.noise = LinearNoise(state, output, None, parts, alike=OneInput.of(state, inputs))
    return layer, method, state, inputs


def x_of(dtype: torch.dtype) -> Tensor:
    return torch.randn(5, 64, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rules", [[BLOCKS], [ROWS], [ODD], [ROWS, BLOCKS]], ids=len)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_gemm_serves_all_parts(dtype: torch.dtype, rules: list[Any], bias: bool) -> None:
    layer, method, state, inputs = made(dtype, *rules, bias=bias)
    assert method.noise is not None and method.noise.alike is not None
    x, given = x_of(dtype), layer.bias
    clean = method.noise
    for scale in (1.0, 0.3, 0.0):
        state.set_scale(scale)
        read = inputs[0](x, state.draw)
        assert torch.equal(read, inputs[1](x, state.draw)), "one and the same error"
        assert torch.equal(read, x) == (scale == 0)
        method.noise = LinearNoise(state, clean.output, None)  # vLLM's own, of what is given
        right = method.apply(layer, read, given)
        method.noise = clean
        assert torch.equal(method.apply(layer, x, given), right), scale


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scales", [(1.0, 0.0), (0.0, 1.0), (1.0, 0.3)])
def test_parts_of_other_scales_are_multiplied_by_themselves(
    dtype: torch.dtype, scales: tuple[float, float]
) -> None:
    layer, method, state, inputs = made(dtype, BLOCKS, bias=True)
    for name, scale in zip((Q, K), scales, strict=True):
        state.set_scale(scale, site=name)
    x = x_of(dtype)
    got = method.apply(layer, x, layer.bias)
    assert layer.bias is not None
    rows = (slice(0, 48), slice(48, 64))
    right = [
        F.linear(chain(x, state.draw), layer.weight[part], layer.bias[part])
        for chain, part in zip(inputs, rows, strict=True)
    ]
    assert torch.equal(got, torch.cat(right, dim=-1))
    assert (
        not torch.equal(right[0], F.linear(x, layer.weight[:48], layer.bias[:48])) or not scales[0]
    )


def test_it_is_the_result_of_parts_that_know_nothing_of_each_other() -> None:
    layer, method, _, _ = made(torch.float32, BLOCKS)
    x = x_of(torch.float32)
    together = method.apply(layer, x, None)
    assert method.noise is not None
    method.noise.alike = None
    torch.testing.assert_close(together, method.apply(layer, x, None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5])
def test_rows_that_are_strided_and_a_single_one(rows: int) -> None:
    layer, method, state, inputs = made(torch.bfloat16, BLOCKS)
    wide = torch.randn(5, 128, generator=torch.Generator().manual_seed(3)).bfloat16()
    x = wide[:rows, ::2]
    assert not x.is_contiguous() or rows == 1
    for scale in (1.0, 0.0):
        state.set_scale(scale)
        right = method.apply(layer, x.contiguous(), None)
        assert torch.equal(method.apply(layer, x, None), right)
        assert torch.equal(inputs[0](x, state.draw), x) == (scale == 0)
    state.set_scale(1.0, site=K)  # K alone: its own input, and Q none
    got = method.apply(layer, x, None)
    read = inputs[1](x, state.draw)
    assert torch.equal(got[:, 48:], F.linear(read, layer.weight[48:]))
    assert torch.equal(got[:, :48], F.linear(x, layer.weight[:48]))


def test_no_phase_is_no_scale() -> None:
    layer, method, state, _ = made(torch.float32, {**BLOCKS, "phase": "rollout"})
    state.set_phase(None)
    with pytest.raises(RuntimeError, match="no phase set"):
        method.apply(layer, x_of(torch.float32), None)


@pytest.mark.parametrize(
    "rules",
    [
        [{"targets": ["linear"], "point": "input", "scale": 0.05}],
        [{**BLOCKS, "targets": [Q]}],
        [{**BLOCKS, "targets": [Q]}, {**ROWS, "targets": [K]}],
        [BLOCKS, {**ROWS, "targets": [K]}],
    ],
    ids=["random", "one site", "two formats", "one more"],
)
def test_errors_of_each_sites_own_are_no_common_input(rules: list[dict[str, Any]]) -> None:
    assert made(torch.float32, *rules)[1].noise.alike is None  # type: ignore[union-attr]


def test_it_is_traced_once_for_all_scales() -> None:
    layer, method, state, _ = made(torch.float32, BLOCKS)
    graphs = 0

    def count(graph: Any, _: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    compiled = torch.compile(lambda x: method.apply(layer, x, None), backend=count, fullgraph=True)
    x = x_of(torch.float32)
    for where in ({}, {"site": Q}, {"site": K}):
        for scale in (1.0, 0.0):
            state.set_scale(scale, **where)
            assert torch.equal(compiled(x), method.apply(layer, x, None))
    assert graphs == 1
