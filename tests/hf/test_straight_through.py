"""The backward pass of a linear layer in a number format, against a float64 transcription by hand.

Straight-through means that rounding has the gradient 1, and nothing else is put back: the layer
computes y = Q(x)·Q(W)ᵀ + b, so with g the gradient of y

    grad_x = g·Q(W),   grad_W = gᵀ·Q(x),   grad_b = Σ g,

each with the operands that were really multiplied, also where a layer is computed again for its
backward pass. (A known mistake: the clean weight is put back before the backward pass.) About 10
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetero_plugin import ConfigError, NoiseConfig
from hetero_plugin.errors.formats import FORMATS
from hetero_plugin.errors.formats.grid import E4M3
from hetero_plugin.hf import state_of, wrap

SITES = {
    "no bias": "model.layers.1.mlp.up_proj",
    "bias": "model.layers.1.self_attn.q_proj",
    "reads attention": "model.layers.0.self_attn.o_proj",
    "head": "lm_head",
}
FORMAT = {"weight": "mxfp4", "input": "mxfp8_e4m3"}
ULP = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7}


def rule(site: str, point: str, **more: Any) -> dict[str, Any]:
    return {"targets": [site], "error": FORMAT[point], "point": point, **more}


def quantised(x: Tensor, point: str) -> Tensor:
    """float64, of what the layer's dtype holds of the format's values (which are exact in it)."""
    return FORMATS[FORMAT[point]].apply(x.float()).to(x.dtype).double()


class Watched:
    """What goes into a layer and comes back through it, in one training pass."""

    def __init__(self, layer: nn.Module) -> None:
        self.x = self.g = self.grad_x = torch.zeros(0)
        layer.register_forward_pre_hook(self._into)
        layer.register_full_backward_hook(self._back)

    def _into(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.x = args[0].detach().clone()

    def _back(self, layer: nn.Module, into: Any, out: Any) -> None:
        self.grad_x, self.g = into[0].detach().clone(), out[0].detach().clone()


def apart(ours: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> float:
    """The largest difference of ours and a·b, in units of what rounding explains.

    A sum of n products in float32 is off by some √n half-ulps of Σ|a||b| at most in practice (n in
    theory); a bfloat16 result is rounded once more, by half its ulp.
    """
    exact, size = a @ b, a.abs() @ b.abs()
    bound = math.sqrt(a.shape[-1]) * 2.0**-23 * size
    if dtype != torch.float32:
        bound = bound + ULP[dtype] / 2 * exact.abs()
    return float(((ours.double() - exact).abs() / (bound + 1e-30)).max())


def plain(model: nn.Module) -> nn.Module:
    return model


def recomputed(reentrant: bool) -> Callable[[nn.Module], nn.Module]:
    def enable(model: Any) -> nn.Module:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        return model

    return enable


def unprovable(model: nn.Module) -> nn.Module:
    """Weights are computed at each use, and again for the backward pass."""
    for module in model.modules():
        noise = module.__dict__.get("hetero_noise")
        if noise is not None:
            noise.held.of = lambda *_: None
    return model


HOW = {
    "plain": plain,
    "recomputed": recomputed(False),
    "recomputed, reentrant": recomputed(True),
    "not held": unprovable,
}


@pytest.mark.parametrize("how", list(HOW))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("points", [("weight",), ("input",), ("weight", "input")], ids="-".join)
@pytest.mark.parametrize("where", list(SITES))
def test_gradients_are_of_the_operands_that_were_multiplied(
    make, ids, where: str, points: tuple[str, ...], dtype: torch.dtype, how: str
) -> None:
    site = SITES[where]
    spec = NoiseConfig.parse({"rules": [rule(site, point) for point in points]})
    model = HOW[how](wrap(make().to(dtype), spec).train())
    layer = model.get_submodule(site)
    watched = Watched(layer)
    model(ids, labels=ids).loss.backward()
    x, g = watched.x.flatten(0, -2), watched.g.flatten(0, -2).double()
    weight = layer.weight.detach()
    q_x = quantised(x, "input") if "input" in points else x.double()
    q_w = quantised(weight, "weight") if "weight" in points else weight.double()
    assert apart(watched.grad_x.flatten(0, -2), g, q_w, dtype) < 1
    assert apart(layer.weight.grad, g.T, q_x, dtype) < 1
    if layer.bias is not None:
        assert apart(layer.bias.grad[None], torch.ones(1, len(g)).double(), g, dtype) < 1
    # What a clean operand in their place would give is far outside of that.
    if "weight" in points:
        assert apart(watched.grad_x.flatten(0, -2), g, weight.double(), dtype) > 20
    if "input" in points:
        assert apart(layer.weight.grad, g.T, x.double(), dtype) > 5


@pytest.mark.parametrize("how", list(HOW))
def test_a_frozen_weight_sends_back_through_its_quantised_self(make, ids, how: str) -> None:
    site = SITES["no bias"]
    spec = NoiseConfig.parse({"rules": [rule(site, "weight"), rule(site, "input")]})
    model = wrap(make(), spec).train()
    layer = model.get_submodule(site)
    layer.weight.requires_grad_(False)
    watched = Watched(layer)
    HOW[how](model)(ids, labels=ids).loss.backward()
    g = watched.g.flatten(0, -2).double()
    assert layer.weight.grad is None
    q_w = quantised(layer.weight.detach(), "weight")
    assert apart(watched.grad_x.flatten(0, -2), g, q_w, torch.float32) < 1


def test_autocast_multiplies_and_sends_back_in_bfloat16(make, ids) -> None:
    """Operands are rounded to bfloat16 after the format, which these formats' values survive."""
    site = SITES["no bias"]
    spec = NoiseConfig.parse({"rules": [rule(site, "weight"), rule(site, "input")]})
    model = wrap(make(), spec).train()
    layer = model.get_submodule(site)
    watched = Watched(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(ids, labels=ids).loss
    loss.backward()
    g = watched.g.flatten(0, -2).bfloat16().double()
    q_w = quantised(layer.weight.detach(), "weight")
    q_x = quantised(watched.x.flatten(0, -2), "input")
    assert torch.equal(q_w, q_w.bfloat16().double())
    assert apart(watched.grad_x.flatten(0, -2), g, q_w, torch.bfloat16) < 1
    assert apart(layer.weight.grad, g.T, q_x, torch.bfloat16) < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_adapter_on_a_quantised_base(make, ids, dtype: torch.dtype) -> None:
    """LoRA: the base multiplies Q(x)·Q(W)ᵀ and is frozen, the adapter reads the clean x.

    grad_x = g·Q(W) + s·(g·B)·A, grad_A = s·(g·B)ᵀ·x, grad_B = s·gᵀ·(x·Aᵀ).
    """
    peft = pytest.importorskip("peft")
    site = SITES["no bias"]
    spec = NoiseConfig.parse({"rules": [rule(site, "weight"), rule(site, "input")]})
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["up_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model = wrap(peft.get_peft_model(make().to(dtype), config, autocast_adapter_dtype=False), spec)
    model.train()
    layer = next(m for name, m in model.named_modules() if name.endswith(f"{site}"))
    watched = Watched(layer)
    model(input_ids=ids, labels=ids).loss.backward()
    x, g = watched.x.flatten(0, -2).double(), watched.g.flatten(0, -2).double()
    a = layer.lora_A["default"].weight
    b = layer.lora_B["default"].weight
    scale = 2.0
    q_w = quantised(layer.base_layer.weight.detach(), "weight")
    assert layer.base_layer.weight.grad is None
    # Intermediate results are rounded to the dtype: once for g·B, once for x·Aᵀ, once for the sum.
    close = {torch.float32: 1e-5, torch.bfloat16: 3 * 2.0**-8}[dtype]
    a64, b64 = a.detach().double(), b.detach().double()
    wanted = g @ q_w + scale * (g @ b64) @ a64
    relative = (watched.grad_x.flatten(0, -2).double() - wanted).norm() / wanted.norm()
    assert relative < close
    wanted = scale * (g @ b64).T @ x
    assert (a.grad.double() - wanted).norm() / wanted.norm() < close
    wanted = scale * g.T @ (x @ a64.T)
    assert (b.grad.double() - wanted).norm() / wanted.norm() < close
    clean = g @ layer.base_layer.weight.detach().double() + scale * (g @ b64) @ a64
    assert (watched.grad_x.flatten(0, -2).double() - clean).norm() / clean.norm() > 2 * close


BOTH = {"direction": "both"}


@pytest.mark.parametrize("how", list(HOW))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("points", [("weight",), ("input",), ("weight", "input")], ids="-".join)
@pytest.mark.parametrize("direction", ["both", "backward"])
def test_the_product_for_the_inputs_gradient_has_operands_of_its_own(
    make, ids, points: tuple[str, ...], dtype: torch.dtype, direction: str, how: str
) -> None:
    """grad_x = Q(g)·Q(W) in blocks along the output features; grad_W = gᵀ·Q(x) all the same."""
    site = SITES["bias"]
    rules = [rule(site, point, direction=direction) for point in points]
    model = HOW[how](wrap(make().to(dtype), NoiseConfig.parse({"rules": rules})).train())
    layer = model.get_submodule(site)
    watched = Watched(layer)
    model(ids, labels=ids).loss.backward()
    x, given = watched.x.flatten(0, -2), watched.g.flatten(0, -2)
    weight = layer.weight.detach()
    forward = direction == "both"
    q_x = quantised(x, "input") if "input" in points and forward else x.double()
    q_g = quantised(given, "input") if "input" in points else given.double()
    q_w = weight.double()
    if "weight" in points:
        q_w = quantised(weight.T.contiguous(), "weight").T
    assert apart(watched.grad_x.flatten(0, -2), q_g, q_w, dtype) < 1
    assert apart(layer.weight.grad, given.double().T, q_x, dtype) < 1
    ones = torch.ones(1, len(given)).double()
    assert apart(layer.bias.grad[None], ones, given.double(), dtype) < 1
    if "weight" in points:  # along the input features it is another matrix
        along = quantised(weight, "weight")
        assert apart(watched.grad_x.flatten(0, -2), q_g, along, dtype) > 10


TOPS = {"weight": (2, 6.0), "input": (8, 448.0)}
"""Exponent of the largest number of each point's format, and that number."""


def kept(x: Tensor, point: str) -> Tensor:
    """Where |x| is no larger than the largest number at the block's scale; float64, by hand."""
    top, largest = TOPS[point]
    blocks = x.double().unflatten(-1, (-1, 32))
    floor = torch.floor(torch.log2(blocks.abs().amax(-1, keepdim=True)))
    return (blocks.abs() <= largest * 2 ** (floor - top)).flatten(-2)


@pytest.mark.parametrize("how", list(HOW))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_clipped_no_gradient_passes_where_an_operand_saturates(
    make, ids, direction: str, dtype: torch.dtype, how: str
) -> None:
    """grad_x = g·Q(W) where x is in range, grad_W = gᵀ·Q(x) where W is; with a format on dgrad
    too."""
    site = SITES["bias"]
    rules = [rule(site, point, direction=direction, ste="clipped") for point in FORMAT]
    model = HOW[how](wrap(make().to(dtype), NoiseConfig.parse({"rules": rules})).train())
    layer = model.get_submodule(site)
    watched = Watched(layer)
    model(ids, labels=ids).loss.backward()
    x, g = watched.x.flatten(0, -2), watched.g.flatten(0, -2)
    weight = layer.weight.detach()
    left, right = g.double(), quantised(weight, "weight")
    if direction == "both":
        left, right = quantised(g, "input"), quantised(weight.T.contiguous(), "weight").T
    of_x, of_weight = kept(x, "input"), kept(weight, "weight")
    assert 0.01 < of_x.double().mean() < 0.999 and 0.01 < of_weight.double().mean() < 0.999
    found = watched.grad_x.flatten(0, -2)
    assert not found[~of_x].any() and not layer.weight.grad[~of_weight].any()
    # Where none passes the product itself is put in, so that all else is compared.
    found = torch.where(of_x, found.double(), left @ right)
    assert apart(found, left, right, dtype) < 1
    left, right = g.double().T, quantised(x, "input")
    found = torch.where(of_weight, layer.weight.grad.double(), left @ right)
    assert apart(found, left, right, dtype) < 1


@pytest.mark.parametrize("how", ["plain", "not held"])
def test_clipped_at_the_scale_that_several_weights_share(make, ids, how: str) -> None:
    """q, k and v have the largest scale of the three: NVFP4's 2688 / max, by hand in float64."""
    options = {"share": "fused"}
    spec = {"error": "nvfp4", "point": "weight", "targets": ["*.self_attn.[qkv]_proj"]}
    model = make()
    attention = model.model.layers[1].self_attn
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    with torch.no_grad():
        layers[2].weight.mul_(3)
    wrap(model, NoiseConfig.parse({**spec, "options": options, "ste": "clipped"})).train()
    HOW[how](model)
    watched = [Watched(layer) for layer in layers]
    model(ids, labels=ids).loss.backward()
    g = 2688 / max(float(layer.weight.detach().abs().max()) for layer in layers)
    for layer, seen in zip(layers, watched, strict=True):
        weight = layer.weight.detach().double()
        blocks = weight.unflatten(-1, (-1, 16))
        wanted = g * blocks.abs().amax(-1, keepdim=True) / 6
        numbers = torch.tensor(E4M3.values()).double()
        scale = numbers[(wanted - numbers).abs().argmin(-1, keepdim=True)] / g
        inside = (blocks.abs() <= 6 * (1 + 1e-5) * scale).flatten(-2)
        assert (~inside).any()
        clean = seen.g.flatten(0, -2).double().T @ seen.x.flatten(0, -2).double()
        grad = layer.weight.grad
        assert not grad[~inside].any()
        torch.testing.assert_close(grad[inside].double(), clean[inside], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("how", ["plain", "recomputed"])
def test_gradients_are_rounded_stochastically_by_address(make, ids, how: str) -> None:
    """What comes back has one of the two neighbours of each element: the same ones where it is
    computed again, others at another step; the forward pass and grad_W know nothing of it."""
    site = SITES["bias"]
    given = rule(site, "input", direction="both", gradient_rounding="stochastic")
    found = []
    for step in (0, 0, 1):
        model = HOW[how](wrap(make(), NoiseConfig.parse(given)).train())
        state_of(model).set_step(step)
        layer = model.get_submodule(site)
        watched = Watched(layer)
        model(ids, labels=ids).loss.backward()
        g = watched.g.flatten(0, -2)
        found.append(watched.grad_x.flatten(0, -2))
        x = quantised(watched.x.flatten(0, -2), "input")
        assert apart(layer.weight.grad, g.double().T, x, torch.float32) < 1
        exact = g.double() @ layer.weight.detach().double()
        size = g.double().abs() @ layer.weight.detach().double().abs()
        off = (found[-1].double() - exact).abs() / size.clamp(min=1e-30)  # tokens without a loss
        assert 0 < float(off.max()) < 0.25  # E4M3's neighbours are 1/8 apart at most
        nearest = quantised(g, "input")
        assert apart(found[-1], nearest, layer.weight.detach().double(), g.dtype) > 10
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_backward_formats_off_are_the_clean_model(make, ids) -> None:
    rules = [rule("linear", point, **BOTH) for point in FORMAT]
    clean, model = make(), wrap(make(), NoiseConfig.parse({"rules": rules}))
    assert not torch.equal(clean(ids).logits, model(ids).logits)
    state_of(model).set_scale(0.0)
    for one in (clean, model):
        one(ids, labels=ids).loss.backward()
    for ours, other in zip(model.parameters(), clean.parameters(), strict=True):
        assert torch.equal(ours.grad, other.grad)


def test_compiled_it_is_the_same_product(make, ids) -> None:
    torch._dynamo.reset()
    rules = [rule(SITES["no bias"], point, ste="clipped", **BOTH) for point in FORMAT]
    grads = []
    for compiled in (False, True):
        model = wrap(make(), NoiseConfig.parse({"rules": rules})).train()
        run = torch.compile(model, backend="aot_eager") if compiled else model
        run(ids, labels=ids).loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"targets": ["linear"], "point": "output"},
            "direction: got 'both' for the number format mxfp4 at the output; a gradient's "
            "product has its operands in a format",
        ),
        (
            {"targets": ["norm"], "point": "input"},
            "is of the kind norm; backward, formats are for the plain products of linear layers",
        ),
    ],
)
def test_a_format_backward_where_it_has_no_product_is_refused(
    make, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        wrap(make(), NoiseConfig.parse({"rules": [{"error": "mxfp4", **BOTH, **given}]}))


def test_a_product_can_not_also_be_added_up_in_another_way(make, ids) -> None:
    rules = [
        rule("linear", "weight", **BOTH),
        {"targets": ["linear"], "error": "accumulate", "options": {"hardware": "hopper"}},
    ]
    model = wrap(make(), NoiseConfig.parse({"rules": rules}))
    with pytest.raises(ConfigError, match="has accumulate and a number format with direction"):
        model(ids)
