"""Gradients of number formats: the clipped straight-through estimator, stochastic rounding.

Against scales written here by hand in float64. Some 20 seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hetero_plugin import NoiseConfig, random
from hetero_plugin.config import ConfigError
from hetero_plugin.errors import error_model
from hetero_plugin.errors.formats.grid import E2M1, E2M3, E3M2, E4M3, E5M2, Grid
from hetero_plugin.operator import Chain
from hetero_plugin.operator.shared import with_shared_scale
from hetero_plugin.sites import Site
from hetero_plugin.state import Draw, NoiseState

SITE = Site("model.layers.0.mlp.up_proj", "linear", 0, 160, 160)
Scaled = tuple[Tensor, Tensor, float, float, list[float]]
"""Scaled elements, what one of them is worth, the grid's ends, its magnitudes; float64."""


def in_blocks(x: Tensor, size: int) -> Tensor:
    """[T, N] -> [T, blocks, size], filled up with zeros."""
    return F.pad(x, (0, -x.shape[-1] % size)).unflatten(-1, (-1, size))


def back(y: Tensor, like: Tensor) -> Tensor:
    return y.flatten(-2)[..., : like.shape[-1]]


def _of_scale(x: Tensor, size: int, scale_of: Callable[[float], float], grid: Grid) -> Scaled:
    """A scale for each block by a function of its largest magnitude, in Python's floats."""
    blocks = in_blocks(x, size)
    peaks = blocks.abs().amax(-1).flatten().tolist()
    scale = torch.tensor([scale_of(p) for p in peaks]).double().view(*blocks.shape[:-1], 1)
    scale = back(scale.expand(blocks.shape), x)
    return x / scale, scale, -grid.largest, grid.largest, grid.values()


def _power(peak: float, grid: Grid, mode: str) -> float:
    mantissa, exponent = math.frexp(peak)  # in [1/2, 1)
    floor = exponent - 1
    if mode == "ceil":
        floor += mantissa != 0.5
    if mode == "even":
        kept = math.floor(mantissa * 2 ** (grid.mantissa + 1) + 0.5) / 2 ** (grid.mantissa + 1)
        floor += kept == 1.0
    if mode == "rceil":
        floor = math.ceil(math.log2(peak / grid.largest)) + grid.top
    return 2.0 ** (floor - grid.top)


def _mx(grid: Grid, mode: str = "floor") -> Callable[[Tensor], Scaled]:
    return lambda x: _of_scale(x, 32, lambda peak: _power(peak, grid, mode), grid)


def _nearest(value: float, numbers: list[float]) -> float:
    """NaN halfway between two, where float32's last digits decide."""
    best, second = sorted(numbers, key=lambda number: abs(number - value))[:2]
    tie = abs(abs(best - value) - abs(second - value)) < 1e-6 * value
    return math.nan if tie else best


def _nvfp4(scale: str | float) -> Callable[[Tensor], Scaled]:
    numbers = E4M3.values()

    def of(x: Tensor) -> Scaled:
        tensor = float(x.abs().max())
        rows = x.abs().amax(-1).tolist() if scale == "row" else [tensor] * len(x)
        made = []
        for row, peak in zip(x, rows, strict=True):
            g = scale if isinstance(scale, float) else 2688 / peak
            made.append(_of_scale(row, 16, lambda p, g=g: _nearest(g * p / 6, numbers) / g, E2M1))
        v, c = (torch.stack([one[i] for one in made]) for i in (0, 1))
        return v, c, -6.0, 6.0, E2M1.values()

    return of


def _fp8(grid: Grid, amax: float | None = None) -> Callable[[Tensor], Scaled]:
    return lambda x: _of_scale(x, x.shape[-1], lambda p: (amax or p) / grid.largest, grid)


def _integer(bits: int, size: int, **how: Any) -> Callable[[Tensor], Scaled]:
    high = 2 ** (bits - 1) - 1
    low = -high if how.get("symmetric") else -high - 1
    divisor = high if how.get("symmetric") else (2**bits - 1) / 2

    def of(x: Tensor) -> Scaled:
        amax = how.get("amax")
        made = _of_scale(x, size or x.shape[-1], lambda p: (amax or p) / divisor, E2M1)
        return made[0], made[1], float(low), float(high), [float(i) for i in range(-low + 1)]

    return of


def _hif4(x: Tensor) -> Scaled:
    def bf16(value: Tensor) -> Tensor:
        return value.to(torch.bfloat16).double()

    b = in_blocks(x, 64)
    peak = b.abs().amax(-1, keepdim=True)
    wanted = bf16(peak * bf16(torch.tensor(1 / 7).double()))
    exponent = torch.floor(torch.log2(wanted))
    scale = torch.round(wanted / 2 ** (exponent - 2)) * 2 ** (exponent - 2)
    inverse = bf16(1 / scale)
    of_8 = b.abs().unflatten(-1, (8, 8)).amax(-1)
    of_4 = b.abs().unflatten(-1, (16, 4)).amax(-1)
    up_8 = (of_8 * inverse >= 4).double()
    up_4 = (of_4 * inverse / 2 ** up_8.repeat_interleave(2, -1) >= 2).double()
    shift = 2 ** (up_8.repeat_interleave(8, -1) + up_4.repeat_interleave(4, -1))
    v, c = back(b * inverse / shift * 4, x), back(scale * shift / 4, x)
    return v, c, -7.0, 7.0, [float(i) for i in range(8)]


CASES: dict[str, tuple[str, dict[str, Any], Callable[[Tensor], Scaled], bool]] = {
    # error, options, by hand, whether something of a Gaussian lies beyond
    "mxfp4": ("mxfp4", {}, _mx(E2M1), True),
    "mxfp4 even": ("mxfp4", {"scale_mode": "even"}, _mx(E2M1, "even"), True),
    "mxfp4 ceil": ("mxfp4", {"scale_mode": "ceil"}, _mx(E2M1, "ceil"), False),
    "mxfp4 rceil": ("mxfp4", {"scale_mode": "rceil"}, _mx(E2M1, "rceil"), False),
    "mxfp4 modelopt": ("mxfp4", {"reference": "modelopt"}, _mx(E2M1, "rceil"), False),
    "mxfp6_e2m3": ("mxfp6_e2m3", {}, _mx(E2M3), True),
    "mxfp6_e3m2": ("mxfp6_e3m2", {}, _mx(E3M2), True),
    "mxfp8_e4m3": ("mxfp8_e4m3", {}, _mx(E4M3), True),
    "mxfp8_e5m2": ("mxfp8_e5m2", {}, _mx(E5M2), True),
    "nvfp4 row": ("nvfp4", {}, _nvfp4("row"), True),
    "nvfp4 number": ("nvfp4", {"tensor_scale": 1500.0}, _nvfp4(1500.0), True),
    "nvfp4 divided": ("nvfp4", {"reference": "compressed-tensors"}, _nvfp4("row"), True),
    "nvfp4 torchao": ("nvfp4", {"reference": "torchao"}, _nvfp4("row"), True),
    "nvfp4 modelopt": ("nvfp4", {"reference": "modelopt"}, _nvfp4("row"), True),
    "hif4": ("hif4", {}, _hif4, True),
    "fp8_e4m3": ("fp8_e4m3", {}, _fp8(E4M3), False),
    "fp8_e4m3 vllm": ("fp8_e4m3", {"reference": "vllm"}, _fp8(E4M3), False),
    "fp8_e5m2": ("fp8_e5m2", {}, _fp8(E5M2), False),
    "fp8 amax": ("fp8_e4m3", {"granularity": "tensor", "amax": 2.0}, _fp8(E4M3, 2.0), True),
    "int8": ("int8", {}, _integer(8, 0), True),
    "int8 symmetric": ("int8", {"symmetric": True}, _integer(8, 0, symmetric=True), False),
    "int4": ("int4", {}, _integer(4, 128), True),
    "int4 amax": (
        "int4",
        {"granularity": "tensor", "amax": 2.5},
        _integer(4, 0, amax=2.5),
        True,
    ),
}


def chain_of(error: str, options: dict[str, Any], stream: str, **rule: Any) -> Chain:
    given = {"point": "input", **({"options": options} if options else {}), **rule}
    spec = NoiseConfig(error=error, **given)
    return Chain.of(NoiseState(spec, [SITE]), stream, [(SITE.name, 160, 0)])


def draw_of(chain: Chain, rows: int, *, scale: float = 1.0, step: int = 0) -> Draw:
    keys = random.row_keys(torch.arange(rows), torch.arange(rows) * 7)
    clock = torch.tensor([random.clock_key(0, step)])
    scales = torch.zeros(max(chain.slots) + 1)
    scales[list(chain.slots)] = scale
    return Draw(keys, clock, scales)


def sample(rows: int = 48, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """[rows, 160], Gaussians in rows of sizes that differ; 160 is no multiple of 64 or 128."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 160, generator=g) * torch.linspace(0.8, 1.6, rows)[:, None]
    return x.to(dtype)


# ---- clipped ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", list(CASES))
def test_no_gradient_passes_where_a_format_saturates(case: str, dtype: torch.dtype) -> None:
    """At scale 1, at 1/4 and at 0; at 0 the gradient is that which came, to the bit."""
    error, options, by_hand, some = CASES[case]
    chain = chain_of(error, options, "input", ste="clipped")
    plain = chain_of(error, options, "input")
    x = sample(dtype=dtype)
    v, _, low, high, _ = by_hand(x.double())
    known = ~v.isnan()
    assert known.double().mean() > 0.9
    beyond = (v > high * (1 + 1e-5)) | (v < low * (1 + 1e-5))
    assert bool(beyond.any()) == some
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for scale in (1.0, 0.25, 0.0):
        given = x.clone().requires_grad_()
        y = chain(given, draw_of(chain, len(x), scale=scale))
        assert torch.equal(y, plain(x, draw_of(plain, len(x), scale=scale))), "forward as it was"
        (found,) = torch.autograd.grad(y, given, grad)
        passed = torch.where(beyond, ((1 - scale) * grad.double()).to(dtype), grad)
        assert torch.equal(found[known], passed[known])
    given = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(plain(given, draw_of(plain, len(x))), given, grad)
    assert torch.equal(found, grad), "the identity is what it was"


def test_the_largest_number_itself_is_inside_and_zeros_are() -> None:
    for error in ("mxfp4", "hif4", "fp8_e4m3", "nvfp4|row|vllm", "int8"):
        beyond = error_model(error).beyond
        assert beyond is not None
        assert not beyond(torch.zeros(2, 64)).any()
        x = torch.linspace(-1.0, 1.0, 64).repeat(2, 1)
        x[:, -1] = -1.0
        assert not beyond(x * 1e-36).any() or error == "hif4", error
    x = torch.zeros(1, 32)
    x[0, :4] = torch.tensor([6.0, 6.0000076, 6.001, 7.9])
    beyond = error_model("mxfp4").beyond
    assert beyond is not None
    assert beyond(x)[0, :4].tolist() == [False, False, True, True]  # 2^-18 of 6 is 2.3e-5
    assert not beyond(torch.full((1, 32), torch.nan)).any()
    assert not error_model("nvfp4|1.0|vllm").beyond(torch.full((1, 16), 1e-4)).any()  # type: ignore[misc]


def test_weights_that_share_a_scale_are_clipped_at_it() -> None:
    """q, with a larger k beside it: as of the fused weight."""
    chain = chain_of(
        "nvfp4", {"share": "fused"}, "weight", point="weight", ste="clipped", targets=["linear"]
    )
    q, k = sample(seed=2), 3 * sample(seed=3)
    given = q.clone().requires_grad_()
    y = with_shared_scale(chain, given, [k], draw_of(chain, len(q)), SITE.name)
    (found,) = torch.autograd.grad(y.sum(), given)
    whole = torch.cat([q, k]).double()
    v, *_ = _nvfp4("max")(whole)
    assert torch.equal(found, (v[: len(q)].abs() <= 6 * (1 + 1e-5)).float())
    alone, *_ = _nvfp4("max")(q.double())
    assert not torch.equal(found, (alone.abs() <= 6 * (1 + 1e-5)).float()), "the scale matters"


# ---- stochastic rounding ----


def stochastic(case: str) -> tuple[Chain, Callable[[Tensor], Scaled]]:
    error, options, by_hand, _ = CASES[case]
    how = {"direction": "both", "gradient_rounding": "stochastic"}
    return chain_of(error, options, "grad_output", **how), by_hand


@pytest.mark.parametrize("case", list(CASES))
def test_the_mean_of_stochastic_rounding_is_the_value(case: str) -> None:
    """Both neighbours only, and up as often as the value lies there.

    Over m elements the mean of (up − p), with values in a range of 1, is within
    t = √(ln(2/α) / 2m) but for a probability of α (Hoeffding), and p is off by up to 2^-17. With
    α = 1e-9 and m = 96 × 160 × 4 draws, t is 0.013 of a step for all; of eighths of p apart with
    what is there. Nearest would be up to half a step off there.
    """
    chain, by_hand = stochastic(case)
    x = sample(96)
    v, worth, low, high, magnitudes = by_hand(x.double())
    assert not v.isnan().any()
    size = torch.where(v < 0, v.abs().clamp(max=-low), v.abs().clamp(max=high))
    numbers = torch.tensor(magnitudes).double()
    at = (torch.searchsorted(numbers, size * (1 + 1e-6), right=True) - 1).clamp(min=0)
    down, up = numbers[at], numbers[(at + 1).clamp(max=len(numbers) - 1)]
    p = torch.where(up > down, (size - down) / (up - down).clamp(min=1e-30), 0.0).clamp(0, 1)
    rose = []
    for step in range(4):
        y = chain(x, draw_of(chain, len(x), step=step)).double()
        q = y.abs() / worth
        is_up = (q - up).abs() <= 1e-5 * up
        is_up &= up > down
        assert (is_up | ((q - down).abs() <= 1e-5 * down)).all(), "one of its two neighbours"
        assert ((y == 0) | (y.sign() == x.sign())).all()
        rose.append(is_up.double() - p)
    off = torch.stack(rose)
    apart = (p * 8).floor().clamp(max=7).expand_as(off)
    for part in [off[p.expand_as(off) > 1e-5], *(off[apart == i] for i in range(8))]:
        bound = math.sqrt(math.log(2e9) / (2 * max(1, part.numel()))) + 2.0**-17
        # 1e-4: elements beside a number of the grid, whose scale differs in float32's last digits.
        assert abs(float(part.sum())) / max(1, part.numel()) < bound + 1e-4


def test_equal_addresses_have_equal_bits() -> None:
    chain, _ = stochastic("nvfp4 row")
    for dtype in (torch.float32, torch.bfloat16):
        x = sample(24, dtype)
        draw = draw_of(chain, len(x))
        y = chain(x, draw)
        assert torch.equal(y, chain(x, draw))
        some = torch.tensor([7, 3, 20])  # another batch, in another order
        assert torch.equal(y[some], chain(x[some], draw.of(draw.keys[some])))
        assert not torch.equal(y, chain(x, draw_of(chain, len(x), step=1)))
        assert not torch.equal(y, chain(x, draw.of(draw.keys + 1)))
        assert torch.equal(x, chain(x, draw_of(chain, len(x), scale=0.0)))


# ---- what is refused ----

FORWARD = {"error": "mxfp4", "point": "input"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({**FORWARD, "ste": "soft"}, "ste"),
        ({"error": "mxfp4", "ste": "clipped"}, "ste: got 'clipped' with point: output"),
        ({**FORWARD, "ste": "clipped", "direction": "backward"}, "direction: backward; it is of"),
        ({**FORWARD, "ste": "clipped", "phase": "rollout"}, "ste: .* phase: rollout, in which"),
        ({"scale": 0.1, "ste": "clipped"}, 'ste: "clipped" belongs to the error model nvfp4 or'),
        ({**FORWARD, "gradient_rounding": "stochastic"}, "direction: forward; it is of the grad"),
        (
            {
                "error": "mxfp4",
                "point": "weight",
                "direction": "both",
                "gradient_rounding": "stochastic",
            },
            "point: weight and direction: both; it is of the gradient that comes back",
        ),
        ({"scale": 0.1, "gradient_rounding": "stochastic"}, "belongs to the error model nvfp4"),
        ({"error": "mxfp4", "point": "grad_weight"}, "point: got 'grad_weight'.*sums over the tok"),
        ({**FORWARD, "direction": "wgrad"}, "direction: got 'wgrad'.*depend on the others"),
        ({**FORWARD, "direction": "dgrad"}, "with direction: both or backward: what comes back"),
    ],
)
def test_what_has_no_meaning_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NoiseConfig.parse(given)


def test_the_text_of_a_specification_has_them_where_they_say_something() -> None:
    plain = NoiseConfig.parse({**FORWARD})
    assert '"ste"' not in plain.canonical and "gradient_rounding" not in plain.canonical
    given = {**FORWARD, "direction": "both"}
    other = {"ste": "clipped", "gradient_rounding": "stochastic"}
    same = NoiseConfig.parse({**given, "ste": "identity", "gradient_rounding": "nearest"})
    assert same.fingerprint == NoiseConfig.parse(given).fingerprint
    noisy = NoiseConfig.parse({**given, **other})
    assert '"ste":"clipped"' in noisy.canonical
    assert NoiseConfig.parse(noisy.canonical) == noisy
    prints = {NoiseConfig.parse({**given, key: other[key]}).fingerprint for key in other}
    assert len(prints | {same.fingerprint, noisy.fingerprint}) == 4
    assert noisy.rules[0].word == "mxfp4"
    assert noisy.rules[0].word_of("grad_output") == "mxfp4|stochastic"


def test_a_format_backward_is_told_of_the_product_that_has_none(caplog: Any) -> None:
    from hetero_plugin.state.words import warn_of_rules

    warn_of_rules(NoiseConfig.parse({**FORWARD}), torch.bfloat16)
    assert "wgrad" not in caplog.text
    both = {**FORWARD, "direction": "both"}
    warn_of_rules(NoiseConfig.parse({**both, "phase": "rollout"}), torch.bfloat16)
    assert "wgrad" not in caplog.text
    warn_of_rules(NoiseConfig.parse(both), torch.bfloat16)
    assert caplog.text.count("that for the weight (wgrad) is computed without") == 1
