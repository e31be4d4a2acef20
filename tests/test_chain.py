"""The operator: every implementation against float64, exact zero, shards, rounding, autograd."""

from __future__ import annotations

import math

import pytest
import torch

from hetero_plugin import random
from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.errors import MODELS, error_model
from hetero_plugin.kernels import KERNEL, reference
from hetero_plugin.operator import Chain, UnsupportedTensor, perturb
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
# Of a product of matrices, which this operator does not see: tests/errors/test_accumulators.py.
OF_VALUES = sorted(
    name for name, model in MODELS.items() if not model.of_product and not model.measured
)
NATIVE = [name for name, model in MODELS.items() if model.native]
SITE = random.site_key("model.layers.0.mlp.down_proj", "output")
CLOCK = torch.tensor([random.clock_key(0, 0)])
ROWS = random.row_keys(torch.arange(64) * 37, torch.arange(64))


def segments(*parts: tuple[int, int, int, int]) -> torch.Tensor:
    return torch.tensor(parts, dtype=torch.int64)


def values(dtype: torch.dtype, columns: int = 700) -> torch.Tensor:
    torch.manual_seed(0)
    x = torch.randn(64, columns) * torch.exp(2 * torch.randn(64, 1))
    return x.to(dtype)


def ulp(x: torch.Tensor) -> torch.Tensor:
    """The spacing of x's dtype at x, as float64."""
    info = torch.finfo(x.dtype)
    exponent = torch.floor(torch.log2(x.double().abs().clamp_min(info.smallest_normal)))
    return torch.exp2(exponent) * info.eps


def exact(x: torch.Tensor, name: str, scale: float) -> torch.Tensor:
    """The float64 reference: clean value, float64 draws, no rounding."""
    z = None
    if MODELS[name].draws is not None:
        draws = random.uniform if MODELS[name].draws == "uniform" else random.normal
        z = draws(CLOCK, torch.tensor([SITE]), ROWS, 0, x.shape[1], torch.float64)
    s = torch.tensor(scale, dtype=torch.float32).double()
    result = MODELS[name].function(x.double(), s, z)
    return x.double() + result if MODELS[name].additive else result


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("name", OF_VALUES)
def test_against_float64(name: str, dtype: torch.dtype, stochastic: bool) -> None:
    """Within one ulp of the float64 value (stochastic rounding), half an ulp (nearest), plus the
    float32 arithmetic of the operator: 4e-7 relative to the value and 3e-4 to the error's scale
    (the normals' worst case, see test_random)."""
    x, scale = values(dtype), 2.0**-5  # a power of two: truncation's steps are exact
    op = (
        torch.ops.hetero_noise.perturb
        if MODELS[name].native
        else torch.ops.hetero_noise.perturb_reference
    )
    y = op(
        x, ROWS, CLOCK, torch.tensor([0.0, scale]), segments((700, SITE, 0, 1)), name, stochastic
    )
    assert y.dtype == dtype and y.shape == x.shape
    wanted = exact(x, name, scale)
    error = (y.double() - wanted).abs()
    steps = 1.0 if stochastic and MODELS[name].additive else 0.5
    slack = 4e-7 * wanted.abs() + 3e-4 * scale * torch.where(
        torch.tensor(name.startswith("relative")), x.double().abs(), torch.tensor(1.0).double()
    )
    assert (error <= steps * torch.maximum(ulp(y), ulp(x)) + slack).all()


@pytest.mark.skipif(KERNEL == "reference", reason="no native kernel on this machine: no compiler")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("name", NATIVE)
def test_native_against_reference(name: str, dtype: torch.dtype, stochastic: bool) -> None:
    """Same address, same draws: at most one ulp apart, and (float32's last bit aside) rarely that.

    Covers segments that start inside a group of 128, are off, have infinities and NaN in them.
    """
    x = values(dtype)
    x[0, :6] = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-7])
    parts = segments((300, SITE, 0, 1), (100, SITE + 1, 64, 0), (300, SITE + 2, 1000, 2))
    scales = torch.tensor([0.0, 0.05, 1e-3])
    a = perturb(x, ROWS, CLOCK, scales, parts, name, stochastic)
    b = reference.perturb(x, ROWS, CLOCK, scales, parts, name, stochastic)
    same = (a == b) | (a.isnan() & b.isnan())
    assert same[0, 2:5].all()  # infinities and NaN
    assert torch.equal(a[:, 300:400].nan_to_num(), x[:, 300:400].nan_to_num())
    gap = (a.double() - b.double()).abs()[~same]
    if name == "truncation":
        assert (~same).double().mean() < 1e-3
    else:
        assert (gap <= 2 * ulp(b)[~same] + 1e-7).all()  # z·s near a sum of zero
        assert (~same).double().mean() < (0.3 if dtype == torch.float32 else 1e-3)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OF_VALUES)
def test_scale_zero_copies_every_bit(name: str, dtype: torch.dtype) -> None:
    x = values(dtype)
    x[0, :4] = torch.tensor([-0.0, math.inf, math.nan, 0.0])
    for op in (torch.ops.hetero_noise.perturb, torch.ops.hetero_noise.perturb_reference):
        if op is torch.ops.hetero_noise.perturb and not MODELS[name].native:
            continue
        y = op(x, ROWS, CLOCK, torch.zeros(2), segments((700, SITE, 0, 1)), name, True)
        bits = torch.int16 if x.element_size() == 2 else torch.int32
        assert torch.equal(x.view(bits), y.view(bits))


def test_shards_are_slices_of_the_whole() -> None:
    """Tensor parallel: a shard with its column offset has the whole's error."""
    x, scales = values(torch.bfloat16), torch.tensor([0.0, 0.05])
    whole = perturb(x, ROWS, CLOCK, scales, segments((700, SITE, 0, 1)))
    for first, last in [(0, 350), (350, 700), (37, 129)]:
        part = perturb(
            x[:, first:last], ROWS, CLOCK, scales, segments((last - first, SITE, first, 1))
        )
        assert torch.equal(part, whole[:, first:last])


def test_rows_are_independent_of_their_batch() -> None:
    x, scales = values(torch.bfloat16), torch.tensor([0.0, 0.05])
    whole = perturb(x, ROWS, CLOCK, scales, segments((700, SITE, 0, 1)))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        perturb(x[order], ROWS[order], CLOCK, scales, segments((700, SITE, 0, 1))), whole[order]
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
def test_stochastic_rounding_realises_the_error_that_was_asked(
    dtype: torch.dtype, scale: float
) -> None:
    """Averaged over draws, y − x is unbiased, and regressed on z·|x| its slope is the scale.

    4 million elements; standard errors from the sample, 5.5 of them: false alarm 4e-8 a check.
    """
    torch.manual_seed(1)
    x = (1 + torch.rand(4096, 1024)).to(dtype)
    rows = random.row_keys(torch.arange(4096), torch.arange(4096))
    y = perturb(x, rows, CLOCK, torch.tensor([0.0, scale]), segments((1024, SITE, 0, 1)))
    z = random.normal(CLOCK, torch.tensor([SITE]), rows, 0, 1024).double()
    error, basis = y.double() - x.double(), z * x.double()
    slope = (error * basis).sum() / basis.square().sum()
    residual = error - slope * basis
    spread = residual.std() / basis.square().sum().sqrt()
    assert abs(slope - scale) < 5.5 * spread + 1e-3 * scale
    assert abs(error.mean()) < 5.5 * error.std() / math.sqrt(error.numel())


def test_nearest_rounding_swallows_small_errors() -> None:
    """What EXPERIMENTS measured: 1e-4 on bfloat16 changes nothing when rounded to nearest."""
    x = values(torch.bfloat16)
    parts = segments((700, SITE, 0, 1))
    nearest = perturb(x, ROWS, CLOCK, torch.tensor([0.0, 1e-4]), parts, "relative_gaussian", False)
    stochastic = perturb(
        x, ROWS, CLOCK, torch.tensor([0.0, 1e-4]), parts, "relative_gaussian", True
    )
    assert torch.equal(nearest, x)
    assert (stochastic != x).double().mean() > 0.01


@pytest.mark.parametrize("shape", [(0, 64), (1, 64), (2, 3, 64), (64,)])
def test_shapes(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    y = perturb(x, ROWS, CLOCK, torch.tensor([0.0, 0.1]), segments((64, SITE, 0, 1)))
    assert y.shape == x.shape
    assert not x.numel() or not torch.equal(x, y)


def test_strided_input() -> None:
    x = torch.randn(700, 64).T
    y = perturb(x, ROWS, CLOCK, torch.tensor([0.0, 0.1]), segments((700, SITE, 0, 1)))
    assert torch.equal(
        y,
        perturb(x.contiguous(), ROWS, CLOCK, torch.tensor([0.0, 0.1]), segments((700, SITE, 0, 1))),
    )


@pytest.mark.skipif(KERNEL == "reference", reason="the checks are the native kernel's")
def test_wrong_arguments_are_refused() -> None:
    x, scales = torch.randn(4, 64), torch.tensor([0.0, 0.1])
    with pytest.raises(RuntimeError, match="4 rows but 2 row keys"):
        perturb(x, ROWS[:2], CLOCK, scales, segments((64, SITE, 0, 1)))
    with pytest.raises(RuntimeError, match="cover 63 columns, the tensor has 64"):
        perturb(x, ROWS, CLOCK, scales, segments((63, SITE, 0, 1)))
    with pytest.raises(RuntimeError, match="slot 7 is outside"):
        perturb(x, ROWS, CLOCK, scales, segments((64, SITE, 0, 7)))
    with pytest.raises(ValueError, match="no native error model 'nope'"):
        perturb(x, ROWS, CLOCK, scales, segments((64, SITE, 0, 1)), "nope")
    with pytest.raises(TypeError, match="Double"):
        perturb(x.double(), ROWS, CLOCK, scales, segments((64, SITE, 0, 1)))


def test_operator_is_well_formed() -> None:
    """torch's own check of schema, fake implementation, autograd and compilation."""
    x = torch.randn(8, 64, requires_grad=True)
    args = (
        x,
        ROWS,
        CLOCK,
        torch.tensor([0.0, 0.1]),
        segments((64, SITE, 0, 1)),
        "relative_gaussian",
        True,
    )
    torch.library.opcheck(torch.ops.hetero_noise.perturb.default, args)
    torch.library.opcheck(torch.ops.hetero_noise.perturb_reference.default, args)


def test_gradient_is_straight_through() -> None:
    x = torch.randn(8, 64, requires_grad=True)
    upstream = torch.randn(8, 64)
    y = perturb(x, ROWS, CLOCK, torch.tensor([0.0, 0.1]), segments((64, SITE, 0, 1)))
    y.backward(upstream)
    assert torch.equal(x.grad, upstream)


def _state(**spec: object) -> NoiseState:
    sites = [
        Site("model.layers.0.a", "linear", 0, 64, 32),
        Site("model.layers.0.b", "linear", 0, 64, 32),
    ]
    return NoiseState(NoiseConfig(**spec), sites, max_rows=64)


def test_rules_apply_in_the_order_of_the_spec() -> None:
    rules = [
        {"targets": ["linear"], "error": "systematic_bias", "scale": 0.5, "direction": "forward"},
        {"targets": ["*.a"], "error": "truncation", "scale": 1.0, "direction": "forward"},
    ]
    x = torch.tensor([[0.6, 1.2, -0.6]]).expand(4, 3)
    state = NoiseState(
        NoiseConfig(rules=rules),
        [Site("m.a", "linear", 0, 3, 3), Site("m.b", "linear", 0, 3, 3)],
        max_rows=4,
    )
    both = Chain.of(state, "output", [("m.a", 3, 0)])(x, state.draw)
    assert torch.equal(both[0], torch.tensor([1.0, 1.0, -2.0]))  # floor(x + sign(x)/2)
    fused = Chain.of(state, "output", [("m.a", 3, 0), ("m.b", 3, 0)])(x.repeat(1, 2), state.draw)
    assert torch.equal(fused[:, :3], both)
    torch.testing.assert_close(fused[0, 3:], torch.tensor([1.1, 1.7, -1.1]))


def test_two_rules_on_one_site_draw_independently() -> None:
    rule = {"targets": ["*.a"], "scale": 0.1, "direction": "forward"}
    once, twice = _state(rules=[rule]), _state(rules=[rule, rule])
    x = torch.ones(64, 64)
    one = Chain.of(once, "output", [("model.layers.0.a", 64, 0)])(x, once.draw) - 1
    two = Chain.of(twice, "output", [("model.layers.0.a", 64, 0)])(x, twice.draw) - 1
    assert 1.3 < float(two.std() / one.std()) < 1.55  # sqrt 2, not 2


def test_compiled_chain_follows_its_state_without_recompiling() -> None:
    state = _state(scale=0.1, targets=["linear"])
    made = Chain.of(state, "output", [("model.layers.0.a", 64, 0)])
    torch._dynamo.reset()
    frames = torch._dynamo.utils.counters["stats"]
    compiled = torch.compile(lambda v: made(v, state.draw) * 1.0, fullgraph=True)
    x = torch.randn(64, 64)
    noisy = compiled(x)
    assert torch.equal(noisy, made(x, state.draw)) and not torch.equal(noisy, x)
    before = frames["unique_graphs"]
    state.set_enabled(False)
    assert torch.equal(compiled(x), x)
    state.set_enabled(True)
    state.set_scale(0.2, site="model.layers.0.a")
    assert torch.equal(compiled(x), made(x, state.draw)) and not torch.equal(compiled(x), noisy)
    state.reset_scales()
    state.set_step(1)
    assert not torch.equal(compiled(x), noisy)
    state.set_step(0)
    assert torch.equal(compiled(x), noisy)
    assert frames["unique_graphs"] == before


@pytest.mark.parametrize("shape", ["transposed", "permuted", "strided", "empty"])
@pytest.mark.parametrize("name", ["perturb", "perturb_reference", "perturb_"])
def test_what_the_compiler_is_told_is_so(name: str, shape: str) -> None:
    """Strides above all: a copy keeps those of a transposed input, and the fake is contiguous."""
    x = {
        "transposed": torch.randn(40, 6).t(),
        "permuted": torch.randn(40, 2, 3).permute(1, 2, 0),
        "strided": torch.randn(6, 80)[:, ::2],
        "empty": torch.randn(40, 0).t(),
    }[shape]
    x.requires_grad_(name != "perturb_")
    scales = torch.tensor([0.0, 0.1])
    operator = getattr(torch.ops.hetero_noise, name).default
    for error in ("relative_gaussian", "truncation"):
        for slot in (0, 1):
            parts = segments((16, SITE, 0, slot), (24, SITE + 1, 16, 1))
            torch.library.opcheck(operator, (x, ROWS, CLOCK, scales, parts, error, True))


@pytest.mark.parametrize("error", OF_VALUES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.complex64], ids=str)
def test_other_dtypes_are_refused(dtype: torch.dtype, error: str) -> None:
    x, scales = torch.ones(4, 8, dtype=dtype), torch.tensor([0.0, 0.1])
    parts = segments((8, SITE, 0, 1))
    for name in (
        ("perturb", "perturb_reference") if MODELS[error].native else ("perturb_reference",)
    ):
        for stochastic in (True, False):
            with pytest.raises(TypeError, match=r"bfloat16, float16"):
                operator = getattr(torch.ops.hetero_noise, name)
                operator(x, ROWS, CLOCK, scales, parts, error, stochastic)


def test_a_chain_names_its_sites_when_it_refuses() -> None:
    state = _state(scale=0.1, targets=["linear"])
    made, draw = Chain.of(state, "output", [("model.layers.0.a", 64, 0)]), state.draw.of(ROWS)
    with pytest.raises(UnsupportedTensor, match=r"model\.layers\.0\.a \(output\) is float64"):
        made(torch.ones(4, 64, dtype=torch.float64), draw)
    with pytest.raises(UnsupportedTensor, match="vmap"):
        torch.func.vmap(lambda v: made(v, draw))(torch.ones(2, 4, 64))


OF_TENSORS = {name for name, model in MODELS.items() if model.whole_tensor}


def test_what_depends_on_the_tensor_is_for_weights_alone() -> None:
    assert sorted(OF_TENSORS) == ["nvfp4"]
    for point in ("input", "output"):
        word = NoiseConfig(error="nvfp4", point=point).rules[0].word
        assert not error_model(word).whole_tensor
    with pytest.raises(ConfigError, match="largest activation"):
        NoiseConfig(error="nvfp4", point="input", options={"tensor_scale": "max"})


@pytest.mark.parametrize("error", [*sorted(set(OF_VALUES) - OF_TENSORS), "nvfp4|row|vllm"])
def test_a_rows_error_is_its_own(error: str) -> None:
    """In any batch: nothing depends on other rows, such as a maximum over all of them."""
    x = values(torch.float32, 64)
    scales, parts = torch.tensor([0.0, 0.2]), segments((64, SITE, 0, 1))
    operator = torch.ops.hetero_noise.perturb_reference
    whole = operator(x, ROWS, CLOCK, scales, parts, error, True)
    alone = [operator(x[i], ROWS[i], CLOCK, scales, parts, error, True) for i in range(8)]
    assert torch.equal(whole[:8], torch.stack(alone)) and not torch.equal(whole, x)
    louder = torch.cat([x[:8], x[8:] * 1e4])
    assert torch.equal(operator(louder, ROWS, CLOCK, scales, parts, error, True)[:8], whole[:8])


def test_an_error_of_the_whole_row_is_refused_on_a_shard() -> None:
    spec = {"scale": 0.1, "targets": ["linear"], "error": "deadzone"}
    state = _state(**spec)
    x = torch.randn(8, 64)
    whole = Chain.of(state, "output", [("model.layers.0.a", 64, 0)])
    assert not torch.equal(whole(x, state.draw.of(ROWS)), x)
    shards = {
        "32 of 64": ("output", [("model.layers.0.a", 32, 32)]),
        "16 of 64": ("output", [("model.layers.0.a", 64, 0), ("model.layers.0.b", 16, 0)]),
        "in 2 pieces": ("output", [("model.layers.0.a", 32, 0), ("model.layers.0.a", 32, 32)]),
        "16 of 32": ("grad_input", [("model.layers.0.a", 16, 0)]),
    }
    for words, (stream, parts) in shards.items():
        with pytest.raises(ConfigError, match=words):
            Chain.of(state, stream, parts)
    Chain.of(state, "output", [("model.layers.0.a", 64, 0)], share=1)  # partial: of this rank's sum
    relative = _state(scale=0.1, targets=["linear"])
    Chain.of(relative, "output", [("model.layers.0.a", 32, 32)])
