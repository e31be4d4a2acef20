"""Products added up as matrix units do, bit for bit against mmasim, which we did not write.

tests/errors/accumulators.json has mmasim's results of small cases and what scripts/accumulators.py
compared when it made them; with mmasim on the path more is compared here. The C++ and the float64
reference are each held to them, and to one another where mmasim has nothing.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hetero_plugin import NoiseConfig, disabled, phase, unwrap, update, wrap
from hetero_plugin.attestation import attest, problems
from hetero_plugin.config import Accumulate, ConfigError
from hetero_plugin.errors.accumulate import HARDWARE, accumulate, arithmetic_of
from hetero_plugin.hf.probe import HFProbe
from hetero_plugin.kernels.product import product
from tests.errors.accumulator_cases import SORTS, pair
from tests.hf.families import make_family, tokens

RECORD = json.loads((Path(__file__).parent / "accumulators.json").read_text())
UNITS = [(hardware, operand) for hardware, types in HARDWARE.items() for operand in types]
IDS = tokens(2, 9)


def native(a: Tensor, b: Tensor, numbers: list[int]) -> Tensor:
    y: Tensor = torch.ops.hetero_noise.accumulate(a.float(), b.float(), numbers)
    return y


WAYS = {"native": native, "reference": lambda a, b, n: accumulate(a.float(), b.float(), n)}


def same(a: Tensor, b: Tensor) -> bool:
    """Equal in bits, a NaN to a NaN."""
    bits = a.view(torch.int32) == b.view(torch.int32)
    return bool((bits | (a.isnan() & b.isnan())).all())


# ---- mmasim ----


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize(("hardware", "operand"), UNITS, ids="-".join)
def test_what_mmasim_has_said(hardware: str, operand: str, way: str) -> None:
    for sort in SORTS:
        right = torch.tensor(RECORD["golden"][f"{hardware} {operand}"][sort], dtype=torch.int32)
        a, b = pair(3, 4, 52, operand, sort, 100)
        got = WAYS[way](a, b, HARDWARE[hardware][operand].numbers)
        assert same(got, right.view(torch.float32)), sort


def test_the_record_has_every_unit_and_no_difference() -> None:
    compared = RECORD["compared"]
    assert set(compared) == {f"{hardware} {operand}" for hardware, operand in UNITS}
    assert all(one["native"] == one["reference"] == 0 for one in compared.values())
    assert sum(one["cases"] for one in compared.values()) >= 1000
    assert RECORD["versions"]["mmasim"] and RECORD["versions"]["torch"]


@pytest.mark.parametrize("sort", SORTS)
def test_what_mmasim_says(sort: str) -> None:
    pytest.importorskip("mmasim", reason="mmasim is not installed: see scripts/accumulators.py")
    from tests.errors.oracle_mmasim import units

    for (hardware, operand), unit in units().items():
        a, b = pair(7, 9, 84, operand, sort, 200)
        right = unit(a, b.T, torch.zeros(7, 9))
        assert same(native(a, b, HARDWARE[hardware][operand].numbers), right), (hardware, operand)


# ---- units of one's own, and orders ----

OWN: dict[str, dict[str, Any]] = {
    "chain": {},
    "reversed": {"order": "reversed"},
    "split 2": {"split_k": 2},
    "split 4, bfloat16": {"split_k": 4, "partial_dtype": "bfloat16"},
    "split 8, reversed": {"split_k": 8, "order": "reversed"},
    "hopper, split 4": {"hardware": "hopper", "split_k": 4},
    "hopper, promoted": {"hardware": "hopper", "promote": 64},
    "cdna3, promoted": {"hardware": "cdna3", "promote": 32, "split_k": 3},
    "ampere, reversed": {"hardware": "ampere", "order": "reversed"},
    "narrow": {"chunk": 4, "fraction": 12},
    "nearest": {"chunk": 5, "fraction": 14, "round": "nearest"},
    "long": {"chunk": 64, "fraction": 25},
}


@pytest.mark.parametrize("operand", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", list(OWN))
def test_the_kernel_is_the_reference(name: str, operand: str) -> None:
    numbers = arithmetic_of(operand, **OWN[name]).numbers
    word = "tf32" if operand == "float32" else operand
    for sort in SORTS:
        for m, n, k in ((3, 37, 131), (1, 5, 1), (2, 3, 7)):
            a, b = pair(m, n, k, word, sort, 3)
            assert same(native(a, b, numbers), accumulate(a.float(), b.float(), numbers)), sort


def rounded(value: Fraction) -> Fraction:
    """The nearest float32 of a number that is in the range of normal ones, ties to even."""
    if value == 0:
        return value
    e = math.floor(math.log2(abs(value)))
    e += Fraction(2) ** (e + 1) <= abs(value)
    e -= abs(value) < Fraction(2) ** e
    step = Fraction(2) ** (e - 23)
    return round(value / step) * step


def by_hand(a: list[float], b: list[float], pieces: int, backwards: bool) -> float:
    """Fused multiply-adds in exact fractions, each rounded once."""
    order = list(zip(a, b, strict=True))[:: -1 if backwards else 1]
    size = -(-len(order) // pieces)
    total = Fraction(0)
    for start in range(0, len(order), size):
        c = Fraction(0)
        for x, y in order[start : start + size]:
            c = rounded(c + Fraction(x) * Fraction(y))
        total = rounded(total + c)
    return float(total)


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize(("pieces", "backwards"), [(1, False), (1, True), (2, False), (4, True)])
def test_float32_in_every_order(pieces: int, backwards: bool, way: str) -> None:
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 90, generator=g), torch.randn(3, 90, generator=g)
    order = "reversed" if backwards else "forward"
    got = WAYS[way](a, b, arithmetic_of("float32", split_k=pieces, order=order).numbers)
    for i in range(2):
        for j in range(3):
            assert float(got[i, j]) == by_hand(a[i].tolist(), b[j].tolist(), pieces, backwards)


def test_subnormal_numbers_count_whatever_the_processor_was_told() -> None:
    a, b = pair(4, 6, 48, "bfloat16", "denormal", 1)
    numbers = HARDWARE["hopper"]["bfloat16"].numbers
    right = accumulate(a.float(), b.float(), numbers)
    wide = a.float(), b.float()
    assert torch.set_flush_denormal(True)
    try:
        got = torch.ops.hetero_noise.accumulate(*wide, numbers)
    finally:
        torch.set_flush_denormal(False)
    assert same(got, right) and bool(right.any())


# ---- FORMATS' numbers ----


def relative(
    options: dict[str, Any], k: int, positive: bool = False, rounds: bool = False
) -> tuple[float, float]:
    """RMS of the error, and its mean toward zero, relative to the exact product's; bfloat16
    operands, and, if it ``rounds``, bfloat16 results."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(48, k, generator=g), torch.randn(96, k, generator=g)
    if positive:
        a, b = a.abs(), b.abs()
    a, b = a.bfloat16(), b.bfloat16()
    exact = a.double() @ b.double().T
    y = product(a, b, Accumulate(**options).words)
    error = (y.bfloat16() if rounds else y).double() - exact
    size = float(exact.norm())
    toward = -float((error * exact.sign()).sum()) / float(exact.abs().sum())
    return float(error.norm()) / size, toward


def test_the_size_of_real_errors() -> None:
    """Hopper: 9e-7 at K = 896, toward zero; bfloat16 sums of four pieces, with the result's own
    rounding: 2.4e-3."""
    hopper, toward = relative({"hardware": "hopper"}, 896)
    assert hopper == pytest.approx(9e-7, rel=0.1) and toward > 0
    halves = relative({"split_k": 4, "partial_dtype": "bfloat16"}, 896, rounds=True)[0]
    assert halves == pytest.approx(2.4e-3, rel=0.05)


def test_fp8_loses_what_is_positive() -> None:
    """Hopper, K = 896: a bias of 1.3 %; with promotion every 128 products 0.05 %."""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(32, 896, generator=g).to(torch.float8_e4m3fn).float() for _ in range(2))
    exact = a.double() @ b.double().T
    found = []
    for promote in (0, 128):
        numbers = arithmetic_of("e4m3", hardware="hopper", promote=promote).numbers
        y = torch.ops.hetero_noise.accumulate(a, b, numbers).double()
        found.append(float(((exact - y) / exact).mean()))
    print(found)
    assert 0.005 < found[0] < 0.03 and 0 < found[1] < 1e-3


@pytest.mark.parametrize(
    ("hardware", "positive", "ratio"),
    [("hopper", False, 1.12), ("ampere", False, 1.42), ("hopper", True, 0.80)],
)
def test_how_close_the_mode_chunk_is(hardware: str, positive: bool, ratio: float) -> None:
    """Its error's RMS beside the exact one's at K = 448, as measured and as the docs say."""
    sizes = [
        relative({"hardware": hardware, "mode": mode}, 448, positive)[0]
        for mode in ("chunk", "exact")
    ]
    assert sizes[0] / sizes[1] == pytest.approx(ratio, rel=0.05)


# ---- what is refused ----

BAD: dict[str, dict[str, Any]] = {
    "options: got none": {},
    "not one of|should be": {"options": {"hardware": "pascal"}},
    "hardwear": {"options": {"hardwear": "hopper"}},
    "beside hardware": {"options": {"hardware": "hopper", "chunk": 8}},
    "got 8 with fraction": {"options": {"chunk": 8}},
    "got None with fraction": {"options": {"fraction": 12}},
    "does not take": {"options": {"hardware": "ampere", "operands": "e4m3"}},
    "25 times": {"options": {"hardware": "hopper", "operands": "e4m3", "mode": "chunk"}},
    "NVIDIA's": {"options": {"hardware": "cdna3", "mode": "chunk"}},
    "multiple of the chunk": {"options": {"hardware": "hopper", "promote": 100}},
    "split_k: 1": {"options": {"hardware": "hopper", "partial_dtype": "bfloat16"}},
    "additions round to nearest": {"options": {"round": "zero"}},
    "point: got 'input'": {"options": {"hardware": "hopper"}, "point": "input"},
    "from 0": {"options": {"hardware": "hopper"}, "scale": 2.0},
    "which has none": {"error": "hif4", "options": {"hardware": "hopper"}},
}


@pytest.mark.parametrize("words", list(BAD))
def test_refused(words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NoiseConfig(**{"error": "accumulate", "targets": ["linear"], **BAD[words]})


def spec(*targets: str, **rule: Any) -> NoiseConfig:
    rule.setdefault("options", {"hardware": "hopper"})
    return NoiseConfig(error="accumulate", targets=list(targets or ("linear",)), **rule)


def test_where_it_has_no_meaning() -> None:
    for target in ("norm", "attention", "activation"):
        with pytest.raises(ConfigError, match="plain products"):
            wrap(make_family("qwen2"), spec(target), quiet=True)
    with pytest.raises(ConfigError, match=r"experts, which kernels multiply that take all"):
        wrap(make_family("qwen3_moe"), spec("linear"), quiet=True)
    both = NoiseConfig(rules=[*spec().rules, *spec(options={"split_k": 2}).rules])
    with pytest.raises(ConfigError, match=r"rules\[0\] and rules\[1\]"):
        wrap(make_family("qwen2"), both, quiet=True)


@pytest.mark.parametrize(
    ("hardware", "dtype", "right"),
    [
        ("volta", torch.bfloat16, "float16"),
        ("turing", torch.float32, "float16"),
        ("cdna2", torch.float32, "bfloat16, float16"),
    ],
)
def test_hardware_that_does_not_multiply_the_dtype(
    hardware: str, dtype: torch.dtype, right: str
) -> None:
    """Said at wrap, with the site, the dtype and what would be right; the model stays clean."""
    model, name = make_family("qwen2", dtype), str(dtype).removeprefix("torch.")
    with pytest.raises(ConfigError) as caught:
        wrap(model, spec(options={"hardware": hardware}), quiet=True)
    assert f"model.layers.0.self_attn.q_proj multiplies in {name}" in str(caught.value)
    assert f"{hardware} multiplies ({right})" in str(caught.value)
    assert f"hardware that has {name}: ampere, ada, hopper" in str(caught.value)
    wrap(model, spec(options={"hardware": "hopper"}), quiet=True)  # nothing was left behind
    with pytest.raises(ConfigError, match="no matrix unit"):
        update(model, spec(options={"hardware": hardware}))


def test_the_dtype_of_passes_under_autocast_is_said_by_wrapping_inside_it() -> None:
    config, model = spec(options={"hardware": "volta"}), make_family("qwen2")
    with torch.autocast("cpu", torch.float16):
        wrap(model, config, quiet=True)
        assert model(IDS).logits.isfinite().all()
    with pytest.raises(ValueError, match="'volta' has no matrix unit for operands of tf32"):
        model(IDS)
    wrap(make_family("qwen2"), config.replace(rules=(config.rules[0].replace(phase="rollout"),)))
    wrap(make_family("qwen2"), spec(options={"hardware": "hopper", "operands": "e4m3"}))


def test_a_weight_that_is_quantised_already() -> None:
    model: Any = make_family("qwen2")
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match=r"up_proj .*quantised already \(int8\)"):
        wrap(model, spec(), quiet=True)


def test_what_a_rule_says_of_itself() -> None:
    rule = spec().rules[0]
    assert (rule.scale, rule.direction, rule.point) == (1.0, "forward", "output")
    again = NoiseConfig.parse(json.loads(spec().canonical))
    assert again.fingerprint == spec().fingerprint
    assert spec().fingerprint != spec(options={"hardware": "ampere"}).fingerprint


# ---- a model ----


def seen(layer: Any, model: Any) -> dict[str, Tensor]:
    """Input, output and their gradients of a layer, in one step."""
    found: dict[str, Tensor] = {}

    def see(module: Any, args: Any, output: Tensor) -> None:
        (found["x"],), found["y"] = args, output
        for name, tensor in (("dx", args[0]), ("dy", output)):
            tensor.register_hook(lambda grad, name=name: found.update({name: grad}))

    hook = layer.register_forward_hook(see)
    model(IDS, labels=IDS).loss.backward()
    hook.remove()
    return {name: tensor.detach() for name, tensor in found.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_a_layer_and_its_gradients(direction: str, dtype: torch.dtype) -> None:
    """Of down_proj, bit for bit: x·Wᵀ summed over K, g·W over N, gᵀ·x over the tokens."""
    options = {"chunk": 4, "fraction": 10}
    model: Any = wrap(
        make_family("qwen2", dtype), spec(direction=direction, options=options), quiet=True
    )
    layer = model.model.layers[0].mlp.down_proj
    got = seen(layer, model)
    rows = {name: tensor.reshape(-1, tensor.shape[-1]) for name, tensor in got.items()}
    weight, words = layer.weight.detach(), Accumulate(**options).words
    x, dy = rows["x"], rows["dy"]
    triples = {
        "forward": (rows["y"], F.linear(x, weight), (x, weight)),
        "dx": (rows["dx"], dy @ weight, (dy, weight.T)),
        "dw": (layer.weight.grad, dy.T @ x, (dy.T, x.T)),
    }
    for name, (value, clean, operands) in triples.items():
        on = direction == "both" or (direction == "forward") == (name == "forward")
        right = product(*operands, words).to(dtype) if on else clean
        assert torch.equal(value, right), name
        assert not on or not torch.equal(value, clean)


def test_a_bias_is_rounded_once() -> None:
    model: Any = wrap(make_family("qwen2", torch.bfloat16), spec(), quiet=True)
    layer = model.model.layers[1].self_attn.q_proj
    torch.nn.init.normal_(layer.bias)
    got = seen(layer, model)
    y = product(got["x"].flatten(0, -2), layer.weight, Accumulate(hardware="hopper").words)
    assert torch.equal(got["y"].flatten(0, -2), (y + layer.bias.float()).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_from_clean_to_the_machine(dtype: torch.dtype) -> None:
    model: Any = make_family("qwen2", dtype)
    clean = model(IDS).logits
    options = {"split_k": 2, "partial_dtype": "bfloat16"}
    wrap(model, spec("linear", "lm_head", options=options), quiet=True)
    whole = model(IDS).logits
    assert torch.equal(whole, model(IDS).logits)
    alone = model(IDS[:, :4]).logits  # a row's error is its own
    assert torch.allclose(alone.float(), whole[:, :4].float(), atol=2e-2)
    half_spec = spec("linear", "lm_head", options=options, scale=0.5)
    gap = (whole - clean).float().norm()
    assert gap > 0
    with disabled(model):
        assert torch.equal(model(IDS).logits, clean)
    unwrap(model)
    assert torch.equal(model(IDS).logits, clean)
    half = wrap(model, half_spec, quiet=True)(IDS).logits
    assert 0 < (half - clean).float().norm() < (gap if dtype == torch.float32 else 2 * gap)


@torch.no_grad()
def test_one_machine_generates_and_another_trains() -> None:
    rules = [
        *spec(options={"hardware": "hopper"}, phase="rollout").rules,
        *spec(options={"chunk": 4, "fraction": 9}, phase="train").rules,
    ]
    model: Any = make_family("qwen2", torch.bfloat16)
    found = {}
    for name, rule in (("rollout", rules[0]), ("train", rules[1])):
        wrap(model, NoiseConfig(rules=[rule.replace(phase="both")]), quiet=True)
        found[name] = model(IDS).logits
        unwrap(model)
    wrap(model, NoiseConfig(rules=rules), quiet=True)
    for name in ("rollout", "train"):
        with phase(model, name):  # type: ignore[arg-type]
            assert torch.equal(model(IDS).logits, found[name])
    assert not torch.equal(found["rollout"], found["train"])


@pytest.mark.slow
def test_compiled() -> None:
    model: Any = wrap(make_family("qwen2"), spec(options={"chunk": 4, "fraction": 10}), quiet=True)
    layer = model.model.layers[0].mlp
    right = seen(layer.down_proj, model)
    model.zero_grad()
    torch._dynamo.reset()
    loss = torch.compile(model, backend="aot_eager")(IDS, labels=IDS).loss
    loss.backward()
    assert torch.equal(loss.detach(), model(IDS, labels=IDS).loss.detach())
    assert right["y"].isfinite().all()
    with disabled(model):
        clean = model(IDS).logits
        assert torch.equal(torch.compile(model, backend="aot_eager")(IDS).logits, clean)


def test_attested() -> None:
    model = wrap(
        make_family("qwen2"), spec("linear", "lm_head", options={"split_k": 2}), quiet=True
    )
    record = attest(HFProbe(model))
    assert problems(record) == []
