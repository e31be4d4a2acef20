"""Number formats as the error of a rule: blends, shards, gradients, models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hetero_plugin import NoiseConfig, disabled, random, unwrap, wrap
from hetero_plugin.attestation import attest, problems
from hetero_plugin.config import FORMATS, PRESETS, ConfigError
from hetero_plugin.errors import MODELS
from hetero_plugin.errors import formats as arithmetic
from hetero_plugin.hf.probe import HFProbe
from hetero_plugin.operator import Chain
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState
from tests.hf.families import FAMILY, make_family, tokens

NAMES = [name for name in FORMATS]
IDS = tokens(2, 9)
PRESETS_OF_FORMATS = [
    name
    for name in PRESETS
    if all(rule["error"] in FORMATS for rule in PRESETS[name].get("rules", [{"error": ""}]))
]


def apply(name: str, x: Tensor, scale: float) -> Tensor:
    keys = random.row_keys(torch.arange(x.shape[0]), torch.arange(x.shape[0]))
    clock = torch.tensor([random.clock_key(0, 0)])
    segments = torch.tensor([[x.shape[1], random.site_key("a", "input"), 0, 1]])
    return torch.ops.hetero_noise.perturb_reference(
        x, keys, clock, torch.tensor([0.0, scale]), segments, name, True
    )


def values(dtype: torch.dtype) -> Tensor:
    return torch.randn(16, 256, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_from_clean_to_the_format(name: str, dtype: torch.dtype) -> None:
    x = values(dtype)
    q = arithmetic.FORMATS[name].apply(x.float())
    assert torch.equal(apply(name, x, 0.0), x)
    assert torch.equal(apply(name, x, 1.0), q.to(dtype))
    half = (x.double() + q.double()) / 2
    eps = torch.finfo(dtype).eps
    assert (apply(name, x, 0.5).double() - half).abs().max() <= eps * half.abs().max()


def test_the_lists_agree() -> None:
    assert set(NAMES) == {name for name, model in MODELS.items() if model.number_format}
    assert set(NAMES) < set(arithmetic.FORMATS)


def test_what_a_rule_says_of_itself() -> None:
    rule = NoiseConfig(error="mxfp4").rules[0]
    assert (rule.scale, rule.direction) == (1.0, "forward")
    assert NoiseConfig(error="mxfp4", scale=0.25).rules[0].scale == 0.25
    two = NoiseConfig(preset="mxfp4-w4a4", scale=0.5, layers=[1]).rules
    assert [(r.point, r.scale, r.layers) for r in two] == [
        ("weight", 0.5, (1,)),
        ("input", 0.5, (1,)),
    ]
    for direction in ("both", "backward"):
        with pytest.raises(ConfigError, match="a gradient's product has its operands in a format"):
            NoiseConfig(error="hif4", direction=direction)
        assert NoiseConfig(error="hif4", direction=direction, point="input").rules
    with pytest.raises(ConfigError, match="from 0"):
        NoiseConfig(error="hif4", scale=1.5)
    with pytest.raises(ConfigError, match="scale"):
        NoiseConfig(error="truncation")


# ---- NVFP4's scale of the tensor ----


def nvfp4(**options: Any) -> str:
    point = "weight" if options.get("tensor_scale") == "max" else "input"
    return NoiseConfig(error="nvfp4", point=point, options=options).rules[0].word


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nvfp4_is_vllms(dtype: torch.dtype) -> None:
    """Its emulation, to the bit: with the tensor's scale, with a row's, with a number."""
    pytest.importorskip("vllm")
    from vllm.model_executor.layers.quantization.utils import nvfp4_emulation_utils as theirs

    x = values(dtype) * torch.logspace(-3, 3, 16)[:, None].to(dtype)
    wide = x.float()

    def right(part: Tensor, g: Tensor | float) -> Tensor:
        scale = torch.as_tensor(g, dtype=torch.float32).reshape(1)
        return theirs.ref_nvfp4_quant_dequant(part.clone(), scale, 16).to(dtype)

    whole = apply(nvfp4(tensor_scale="max"), x, 1.0)
    assert torch.equal(whole, right(wide, 2688.0 / wide.abs().max()))
    assert torch.equal(whole, apply("nvfp4", x, 1.0))
    assert torch.equal(apply(nvfp4(tensor_scale=3.5), x, 1.0), right(wide, 3.5))
    rows = [right(row[None], 2688.0 / row.abs().max()) for row in wide]
    got = apply(nvfp4(tensor_scale="row"), x, 1.0)
    assert torch.equal(got, torch.cat(rows))
    assert torch.equal(apply(nvfp4(tensor_scale="row"), x[3:5], 1.0), got[3:5])
    ones = arithmetic.micro.nvfp4(wide, 3.5, "compressed-tensors").to(dtype)
    other = nvfp4(tensor_scale=3.5, reference="compressed-tensors")
    assert torch.equal(apply(other, x, 1.0), ones)


def test_what_nvfp4_does_not_take() -> None:
    for point in ("input", "output"):
        with pytest.raises(ConfigError, match="largest activation of a batch"):
            NoiseConfig(error="nvfp4", point=point, options={"tensor_scale": "max"})
    for bad in ("tensor", 0, -1.0, True, float("nan"), "inf"):
        with pytest.raises(ConfigError, match="tensor_scale"):
            NoiseConfig(error="nvfp4", point="weight", options={"tensor_scale": bad})
    with pytest.raises(ConfigError, match=r"'tensor_scale'\. Known keys: scale_mode, reference"):
        NoiseConfig(error="mxfp4", options={"tensor_scale": "row"})
    one = {"error": "nvfp4", "point": "input", "tensor_scale": "row"}
    for given in (one, {"rules": [one]}):
        with pytest.raises(ConfigError, match="is an option of nvfp4; write options: "):
            NoiseConfig.parse(given)
    assert [rule.word for rule in NoiseConfig.parse("nvfp4-w4a4").rules] == [
        "nvfp4|max|vllm",
        "nvfp4|row|vllm",
    ]


# ---- shards ----


def state_of_site(error: str) -> NoiseState:
    site = Site("model.layers.0.self_attn.q_proj", "linear", 0, 320, 320)
    spec = NoiseConfig(error=error, targets=["linear"], point="input")
    return NoiseState(spec, [site], max_rows=16)


@pytest.mark.parametrize("name", NAMES)
def test_a_share_of_the_columns(name: str) -> None:
    """Shares that end at edges of blocks are slices of the whole; others are refused."""
    x = torch.randn(16, 320, generator=torch.Generator().manual_seed(1))
    state, site = state_of_site(name), "model.layers.0.self_attn.q_proj"
    draw = state.draw.of(random.row_keys(torch.arange(16), torch.arange(16)))
    whole = Chain.of(state, "input", [(site, 320, 0)])(x, draw)
    block = MODELS[name].block
    for columns, offset in ((256, 0), (64, 256), (160, 160), (48, 0), (32, 16)):
        parts = [(site, columns, offset)]
        end = offset + columns
        if block and offset % block == 0 and (end % block == 0 or end == 320):
            part = Chain.of(state, "input", parts)(x[:, offset:end], draw)
            assert torch.equal(part, whole[:, offset:end])
        else:
            with pytest.raises(ConfigError, match=name):
                Chain.of(state, "input", parts)


# ---- models ----


@pytest.mark.parametrize("preset", ["nvfp4-w4a16", "mxfp4-w4a4", "int8-w8a8", "int4-w4a16-g128"])
def test_a_layer_and_its_gradients(preset: str) -> None:
    """Of down_proj, against float64: y = Q(x)·Q(W)ᵀ, dx = g·Q(W), dW = gᵀ·Q(x)."""
    model: Any = wrap(make_family("qwen2"), preset, quiet=True)
    rules = {rule.point: arithmetic.FORMATS[rule.error] for rule in NoiseConfig.parse(preset).rules}
    layer, seen = model.model.layers[0].mlp.down_proj, {}

    def see(module: Any, args: Any, output: Tensor) -> None:
        (seen["x"],), seen["y"] = args, output
        for name, tensor in (("dx", seen["x"]), ("dy", output)):
            tensor.register_hook(lambda grad, name=name: seen.update({name: grad}))

    hook = layer.register_forward_hook(see)
    model(IDS, labels=IDS).loss.backward()
    hook.remove()
    x, weight = seen["x"].detach(), layer.weight.detach()
    qx = (rules["input"].apply(x) if "input" in rules else x).double()
    qw = (rules["weight"].apply(weight) if "weight" in rules else weight).double()
    dy = seen["dy"].double()
    rows = lambda t: t.reshape(-1, t.shape[-1])  # noqa: E731
    for got, right in (
        (seen["y"], F.linear(qx, qw)),
        (seen["dx"], dy @ qw),
        (layer.weight.grad, rows(dy).T @ rows(qx)),
    ):
        assert (got.double() - right).norm() <= 1e-6 * right.norm()
    assert (F.linear(x, weight) - seen["y"]).norm() > 1e-3 * seen["y"].norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", sorted(FAMILY))
@torch.no_grad()
def test_families(family: str, dtype: torch.dtype) -> None:
    """The same each time, and gone when it is switched off."""
    model: Any = make_family(family, dtype)
    clean = model(IDS).logits
    wrap(model, "mxfp4-w4a4", quiet=True)
    first = model(IDS).logits
    assert torch.equal(first, model(IDS).logits)
    assert (first.float() - clean.float()).abs().mean() > 1e-2
    with disabled(model):
        assert torch.equal(model(IDS).logits, clean)
    unwrap(model)
    assert torch.equal(model(IDS).logits, clean)


@pytest.mark.parametrize("preset", PRESETS_OF_FORMATS)
def test_attested(preset: str) -> None:
    spec = NoiseConfig.parse(preset)
    record = attest(HFProbe(wrap(make_family("qwen2"), spec, quiet=True)))
    assert problems(record) == []
