"""What a captured CUDA graph may not meet, on a machine that can't capture one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("vllm")

from hetero_plugin import NoiseConfig
from hetero_plugin.aqn.offsets import AQNState
from hetero_plugin.operator import Chain
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm import experts, linear

SITE = Site("model.layers.0.self_attn.q_proj", "linear", 0, 6, 8)


def chainless() -> Chain:
    return Chain("weight", ((SITE.name, 6, 0),))


def test_weights_of_a_slice_are_those_of_its_layer() -> None:
    """A captured graph reads the addresses that it was captured with, and a weight sync may write
    into the layer's tensors without another word."""
    layer = nn.Linear(8, 12)
    part = linear.RowSlice(6, 6, 6, chainless(), chainless(), torch.device("cpu"))
    part.follow(layer)
    assert part.bias is not None
    assert part.bias.data_ptr() == layer.bias[6:].data_ptr()
    assert part.weight.data_ptr() == layer.weight[6:].data_ptr()
    with torch.no_grad():
        layer.bias.add_(1.0)
        layer.weight.add_(1.0)
    assert torch.equal(part.bias, layer.bias[6:])
    assert torch.equal(part.weight, layer.weight[6:])


def test_the_number_of_an_experts_layer_is_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM builds models under `with device:`, and the number is read in every pass."""
    monkeypatch.setattr(experts.UnquantizedFusedMoEMethod, "__init__", lambda *args: None)
    with torch.device("meta"):
        made = experts.NoisyExpertsMethod(None)
    assert made.number.device.type == "cpu"
    assert experts._LAYERS[int(made.number)] is made


def test_a_captured_pass_has_aqns_offsets_whatever_the_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Captured with the gate shut and replayed with it open, it would be clean in silence."""
    aqn = AQNState([Site("model.norm", "norm", None, 8, None)], torch.device("cpu"))
    aqn.gate(False)
    assert not aqn.any()
    aqn.offsets = SimpleNamespace(device=SimpleNamespace(type="cuda"))  # type: ignore[assignment]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert aqn.any()


def test_a_part_that_is_captured_by_itself_keeps_its_operator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its pass began outside of the capture, when every scale was 0."""
    from hetero_plugin.operator import Chain, chain

    state = NoiseState(NoiseConfig(scale=0.0, targets=["linear"]), [SITE], max_rows=4)
    made = Chain.of(state, "output", [(SITE.name, 6, 0)])
    before = state.nonzero
    assert not made.needed(state.draw, before)
    monkeypatch.setattr(chain, "is_capturing", lambda device: True)
    assert made.needed(state.draw, before)


def noise_of_experts() -> Any:
    off = experts.GemmNoise(chainless(), chainless(), chainless(), torch.zeros(0))
    state = NoiseState(NoiseConfig(scale=0.1, targets=["linear"]), [SITE], max_rows=4)
    state.set_rows(torch.arange(4), torch.arange(4))
    return experts.FusedExpertsNoise(state, off, chainless(), off, "silu")


@pytest.mark.parametrize("on", [False, True])
def test_experts_that_are_off_have_no_rows(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the host does not know which of two results is taken, so both are computed."""
    seen: list[list[int]] = []

    def grouped(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        seen.append(ends.tolist())
        return x @ weight[0].T

    monkeypatch.setattr(experts, "grouped_linear", grouped)
    x, w13, w2 = torch.randn(4, 8), torch.randn(3, 12, 8), torch.randn(3, 8, 6)
    ids = torch.tensor([[0, 2], [1, 2], [0, 1], [2, 0]])
    arguments = noise_of_experts(), x, w13, w2, torch.ones(4, 2), ids
    experts.noisy_experts(*arguments, torch.tensor(on))
    assert seen == [[3, 5, 8] if on else [0, 0, 0]] * 2


@pytest.mark.parametrize(
    ("dtype", "capability", "fine"),
    [
        (torch.bfloat16, (9, 0), True),
        (torch.bfloat16, (10, 0), True),
        (torch.bfloat16, (8, 0), False),
        (torch.float16, (9, 0), False),
        (torch.float32, (9, 0), False),
    ],
)
def test_a_grouped_gemm_that_waits_for_the_host_is_refused_in_a_graph(
    dtype: torch.dtype,
    capability: tuple[int, int],
    fine: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    x = torch.zeros(2, 2, dtype=dtype)
    if fine:
        experts._check_capture(x)
    else:
        with pytest.raises(RuntimeError, match="enforce_eager"):
            experts._check_capture(x)


def test_attention_is_not_changed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result is a view of a buffer that the graph was given: in place would be two copies."""
    from hetero_plugin.vllm import layers

    result, asked = torch.ones(2, 4), []
    monkeypatch.setattr(layers.Attention, "forward", lambda self, *args: result)
    attention: Any = layers.NoisyAttention.__new__(layers.NoisyAttention)
    nn.Module.__init__(attention)
    state = NoiseState(NoiseConfig(scale=0.1, targets=["linear"]), [SITE], max_rows=4)
    attention.noise = SimpleNamespace(
        output=lambda x, draw, **how: asked.append(how) or x + 1, state=state
    )
    assert torch.equal(attention.forward(None), torch.full((2, 4), 2.0))
    assert asked == [{}]
