"""Options of number formats: what they mean, what they are refused for, one scale for several
weights. Quick: half a minute in all."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetero_plugin import NoiseConfig, disabled, unwrap, wrap
from hetero_plugin.config import FORMATS, ConfigError
from hetero_plugin.errors import MODELS, error_model
from hetero_plugin.errors.formats import GRIDS
from hetero_plugin.errors.formats.grid import E2M1
from hetero_plugin.errors.formats.micro import MODES, mx, nvfp4, nvfp4_rows
from hetero_plugin.errors.formats.scaled import fp8, integer
from hetero_plugin.operator import Chain
from hetero_plugin.operator.shared import with_shared_scale
from hetero_plugin.sites import Site, fused_with
from hetero_plugin.state import NoiseState
from tests.errors.test_number_formats import IDS, apply, values
from tests.hf.families import make_family


def word(error: str, point: str = "weight", **options: Any) -> str:
    return NoiseConfig(error=error, point=point, options=options).rules[0].word


# ---- words ----


def test_defaults_have_the_word_that_they_had() -> None:
    for name in FORMATS:
        if name != "nvfp4":
            assert NoiseConfig(error=name, point="weight").rules[0].word == name
    assert word("mxfp4", scale_mode="floor") == "mxfp4"
    assert word("fp8_e4m3", granularity="row") == "fp8_e4m3"
    assert word("int4", granularity=128) == "int4" and word("int8", granularity="row") == "int8"
    assert word("nvfp4", tensor_scale="max") == "nvfp4|max|vllm"


def test_an_option_that_was_not_there_changes_no_fingerprint() -> None:
    config = NoiseConfig(error="nvfp4", point="weight", options={"tensor_scale": "max"})
    assert '"options":{"reference":"vllm","tensor_scale":"max"}' in config.canonical
    assert NoiseConfig.parse(config.canonical) == config
    other = NoiseConfig(error="nvfp4", point="weight", options={"share": "fused"})
    assert '"share":"fused"' in other.canonical and NoiseConfig.parse(other.canonical) == other


CASES = [
    *[("mxfp4", {"scale_mode": mode}) for mode in MODES],
    *[("mxfp8_e4m3", {"scale_mode": mode}) for mode in MODES],
    ("mxfp6_e2m3", {"reference": "compressed-tensors"}),
    ("mxfp4", {"reference": "modelopt"}),
    *[("nvfp4", {"reference": one}) for one in ("compressed-tensors", "torchao", "modelopt")],
    *[("nvfp4", {"reference": one, "tensor_scale": "row"}) for one in ("torchao", "modelopt")],
    ("nvfp4", {"reference": "torchao", "tensor_scale": 7.0}),
    *[("fp8_e4m3", {"granularity": one}) for one in ("tensor", "block", 64)],
    ("fp8_e5m2", {"granularity": "tensor", "amax": 2.5}),
    ("fp8_e4m3", {"reference": "vllm"}),
    ("fp8_e4m3", {"floor": 0.01}),
    *[("int8", {"granularity": one, "symmetric": True}) for one in ("tensor", "row", 32)],
    ("int4", {"granularity": 32}),
    ("int4", {"granularity": "tensor", "amax": 1.5}),
]


def _direct(error: str, o: dict[str, Any], x: Tensor) -> Tensor:
    """The same by the functions themselves."""
    if error == "nvfp4":
        scale, reference = o.get("tensor_scale", "max"), o["reference"]
        return (
            nvfp4_rows(x, reference)
            if scale == "row"
            else nvfp4(x, None if scale == "max" else scale, reference)
        )
    if error.startswith("mx"):
        reference = o.get("reference", "ocp")
        own = {"compressed-tensors": "even", "modelopt": "rceil"}
        mode: Any = o.get("scale_mode") or own.get(reference, "floor")
        return mx(x, GRIDS[error], mode, reference)
    if error.startswith("fp8"):
        shared, how = o.get("granularity", "row"), o.get("reference", "compressed-tensors")
        return fp8(x, GRIDS[error], shared, o.get("floor"), amax=o.get("amax"), reference=how)
    bits = 8 if error == "int8" else 4
    return integer(x, bits, o["granularity"], o.get("symmetric", False), amax=o.get("amax"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("error", "options"), CASES, ids=str)
def test_options_reach_the_arithmetic(
    error: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    x = values(dtype) * torch.logspace(-2, 2, 16)[:, None].to(dtype)
    name = word(error, **options)
    right = _direct(error, options, x.float()).to(dtype)
    assert torch.equal(apply(name, x, 1.0), right)
    assert torch.equal(apply(name, x, 0.0), x)
    model = error_model(name)
    assert model.number_format and model.name == name
    if error not in ("nvfp4", "mxfp4") and name != error:
        plain = apply(error, x, 1.0)
        small = options.get("reference") is not None or options.get("scale_mode") in (
            "ceil",
            "even",
        )
        assert small or "floor" in options or not torch.equal(plain, right), "options do nothing"


def test_what_an_error_depends_on() -> None:
    """A change of one element changes no other beyond its row, block, tile or tensor, and the
    traits say which."""
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
    y = x.clone()
    y[130, 140] = 1000.0
    for error, options in CASES:
        name = word(error, **options)
        model = error_model(name)
        hit = (error_model(name).function(x, torch.tensor(1.0), None)) != model.function(
            y, torch.tensor(1.0), None
        )
        rows, columns = hit.any(dim=1).nonzero().flatten(), hit.any(dim=0).nonzero().flatten()
        if not model.whole_tensor:
            block = model.block_rows
            assert set((rows // block).tolist()) == {130 // block}, name
        if model.block:
            assert set((columns // model.block).tolist()) == {140 // model.block}, name
        elif not model.whole_row:
            assert columns.tolist() == [140], name


# ---- MX and NVFP4 by others' rules ----


def test_ties_go_down() -> None:
    """Against a search of the grid; the middles, and what lies beside them."""
    numbers = torch.tensor(E2M1.values())
    middles = (numbers[1:] + numbers[:-1]) / 2
    assert torch.equal(E2M1.nearest_down(middles), numbers[:-1])
    assert torch.equal(E2M1.nearest_down(-middles), -numbers[:-1])
    above = torch.nextafter(middles, torch.tensor(9.0))
    assert torch.equal(E2M1.nearest_down(above), numbers[1:])
    below = torch.nextafter(middles, torch.tensor(0.0))
    assert torch.equal(E2M1.nearest_down(below), numbers[:-1])
    assert torch.equal(E2M1.nearest_down(numbers), numbers)
    odd = torch.tensor([float("nan"), 1e-40, 100.0, float("-inf")])
    assert E2M1.nearest_down(odd).nan_to_num(7.0).tolist() == [7.0, 0.0, 6.0, -6.0]


# ---- what is refused ----


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"error": "hif4", "options": {"granularity": "row"}}, "'hif4', which has none"),
        ({"error": "mxfp4", "options": {"mode": "floor"}}, "unknown key 'mode'"),
        ({"error": "mxfp4", "options": {"scale_mode": "up"}}, "scale_mode"),
        (
            {"error": "mxfp4", "options": {"scale_mode": "ceil", "reference": "modelopt"}},
            "a mode of its own",
        ),
        ({"error": "mxfp8_e4m3", "options": {"reference": "modelopt"}}, "scale_mode: rceil"),
        ({"error": "nvfp4", "options": {"reference": "torch"}}, "reference"),
        ({"error": "fp8_e4m3", "options": {"granularity": "channel"}}, "granularity"),
        ({"error": "fp8_e4m3", "options": {"granularity": 0}}, "granularity"),
        ({"error": "fp8_e4m3", "options": {"granularity": True}}, "granularity"),
        ({"error": "fp8_e4m3", "options": {"floor": -1.0}}, "floor"),
        ({"error": "fp8_e4m3", "options": {"amax": 3.0}}, "belongs to granularity: tensor"),
        ({"error": "int8", "options": {"amax": 0.0, "granularity": "tensor"}}, "amax"),
        ({"error": "int8", "options": {"granularity": "block"}}, "granularity"),
        ({"error": "int8", "options": {"share": "fused"}}, "granularity: tensor, or leave"),
        ({"error": "int4", "options": {"share": "all"}}, "share"),
        (
            {"error": "nvfp4", "options": {"share": "fused", "tensor_scale": "row"}},
            "tensor_scale: max, or leave",
        ),
        (
            {"error": "nvfp4", "options": {"share": "fused", "tensor_scale": 3.0}},
            "no scale of the tensor",
        ),
        ({"error": "nvfp4", "point": "input", "options": {"share": "fused"}}, "at the input"),
        (
            {"error": "fp8_e4m3", "point": "input", "options": {"granularity": "tensor"}},
            "depend on the others. Give amax",
        ),
        (
            {"error": "int8", "point": "output", "options": {"granularity": "tensor"}},
            "depend on the others. Give amax",
        ),
        (
            {"error": "fp8_e4m3", "point": "input", "options": {"granularity": "block"}},
            "several tokens",
        ),
    ],
)
def test_what_is_refused(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NoiseConfig(**{"point": "weight", **rule})
    assert says in str(caught.value)


def test_formats_where_they_have_no_meaning() -> None:
    model = make_family("qwen2")
    for rule, says in (
        ({"targets": ["norm"], "point": "weight"}, "has no matrix"),
        ({"targets": ["attention"], "point": "input"}, "q_proj, k_proj, v_proj"),
    ):
        with pytest.raises(ConfigError, match=says):
            wrap(model, NoiseConfig(error="mxfp4", **rule), quiet=True)
    for direction in ("backward", "both"):
        with pytest.raises(ConfigError, match="a gradient's product has its operands in a format"):
            NoiseConfig(error="mxfp4", direction=direction)


def test_a_format_on_outputs_is_said_to_be_no_product(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hetero_noise"):
        wrap(make_family("qwen2"), NoiseConfig(error="mxfp4"), quiet=True)
        wrap(make_family("qwen2"), "mxfp4-w4a4", quiet=True)
    said = [r.getMessage() for r in caplog.records if "on outputs" in r.getMessage()]
    assert len(said) == 1 and "point: weight and point: input" in said[0]


def test_a_weight_that_is_quantised_already() -> None:
    model: Any = make_family("qwen2")
    layer = model.model.layers[1].mlp.down_proj
    layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.down_proj.*quantised already.*float8"):
        wrap(model, "nvfp4-w4a16", quiet=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("error", "options"),
    [
        ("nvfp4", {}),
        ("nvfp4", {"reference": "torchao"}),
        ("fp8_e4m3", {"granularity": "tensor"}),
        ("fp8_e4m3", {"granularity": "block"}),
        ("int8", {"granularity": "tensor", "symmetric": True}),
    ],
)
def test_each_expert_has_the_scale_of_its_own_matrix(
    error: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    """Bit for bit what a linear layer with that expert's matrix has, in any scale of the blend."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1.0, 30.0, 1e-3, 0.0]).view(4, 1, 1)
    weight = (torch.randn(4, 130, 96, generator=generator) * sizes).to(dtype)
    for scale in (1.0, 0.5):
        spec = NoiseConfig(error=error, point="weight", scale=scale, options=options)
        name = "model.layers.0.mlp.experts.gate_up_proj"
        state = NoiseState(spec, [Site(name, "linear", 0, 130, 96)])
        chain = Chain.of(state, "weight", [(name, 96, 0)])
        keys = torch.zeros(4 * 130, dtype=torch.int64)
        state.set_phase("train")
        got = chain(weight, state.draw.of(keys))
        plain = NoiseState(spec, [Site("model.layers.0.mlp.up_proj", "linear", 0, 130, 96)])
        plain.set_phase("train")
        one = Chain.of(plain, "weight", [("model.layers.0.mlp.up_proj", 96, 0)])
        right = torch.stack([one(matrix, plain.draw.of(keys[:130])) for matrix in weight])
        assert torch.equal(got, right) and not torch.equal(got, weight)
        assert chain.fixed and chain.rows_at_once(4 * 130, 256) == 130 and one.fixed


def test_experts_of_a_tensor_parallel_rank_have_no_scale_of_a_matrix() -> None:
    pytest.importorskip("vllm")
    from hetero_plugin.vllm.columns import check_rows

    site = Site("model.layers.0.mlp.experts.gate_up_proj", "linear", 0, 256, 96)
    for error, options, instead in (
        ("nvfp4", {}, "tensor_scale: row"),
        ("fp8_e4m3", {"granularity": "block"}, "granularity: row"),
    ):
        spec = NoiseConfig(error=error, point="weight", options=options)
        chain = Chain.of(NoiseState(spec, [site]), "weight", [(site.name, 96, 0)])
        check_rows(NoiseState(spec, [site]), chain, 256)
        with pytest.raises(ConfigError, match=f"expert's matrix.*128 of the 256.*{instead}"):
            check_rows(NoiseState(spec, [site]), chain, 128)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("family", ["qwen3_moe", "qwen2_moe"])
def test_the_preset_of_nvfp4_is_for_models_with_experts(family: str, implementation: str) -> None:
    model = make_family(family, torch.bfloat16)
    model.set_experts_implementation(implementation)
    ids = torch.tensor([[5, 9, 2, 7, 1, 3, 8, 4]])
    clean = model(ids).logits
    wrap(model, "nvfp4-w4a4", quiet=True)
    noisy = model(ids).logits
    assert not torch.equal(noisy, clean)
    # With the experts' weights rounded beforehand and their rule left out, the very same.
    unwrap(model)
    for layer in (m for n, m in model.named_modules() if n.endswith("mlp.experts")):
        for weight in (layer.gate_up_proj, layer.down_proj):
            weight.data = torch.stack([nvfp4(one.float()).to(one.dtype) for one in weight.data])
    rules = []
    for rule in NoiseConfig.parse("nvfp4-w4a4").rules:
        beside = ("*.mlp.experts.*",) if rule.point == "weight" else ()
        rules.append(rule.replace(exclude=(*rule.exclude, *beside)))
    wrap(model, NoiseConfig(rules=rules), quiet=True)
    assert torch.equal(model(ids).logits, noisy)


def test_rows_of_a_rank_that_cut_a_tile() -> None:
    pytest.importorskip("vllm")
    from hetero_plugin.vllm.columns import check_rows

    site = Site("model.layers.0.self_attn.q_proj", "linear", 0, 320, 256)
    spec = NoiseConfig(error="fp8_e4m3", point="weight", options={"granularity": "block"})
    state = NoiseState(spec, [site])
    chain = Chain.of(state, "weight", [(site.name, 256, 0)])
    for rows, first in ((320, 0), (128, 0), (128, 128), (64, 256), (192, 128)):
        check_rows(state, chain, rows, first)
    for rows, first in ((160, 0), (160, 160), (64, 128)):
        with pytest.raises(ConfigError, match=r"tiles of 128 rows.*which cuts one"):
            check_rows(state, chain, rows, first)
    spec = NoiseConfig(error="int8", point="weight", options={"granularity": "tensor"})
    state = NoiseState(spec, [site])
    chain = Chain.of(state, "weight", [(site.name, 256, 0)])
    with pytest.raises(ConfigError, match=r"int8 with a scale of the whole tensor.*160 of the 320"):
        check_rows(state, chain, 160, 160)


@pytest.mark.parametrize("columns", [48, 96])
def test_groups_that_a_share_of_the_columns_cuts(columns: int) -> None:
    site = Site("model.layers.0.mlp.down_proj", "linear", 0, 64, 192)
    options = {"granularity": columns}
    spec = NoiseConfig(error="fp8_e4m3", point="input", options=options)
    state = NoiseState(spec, [site])
    Chain.of(state, "input", [(site.name, 96, 96)])
    with pytest.raises(ConfigError, match=f"blocks of {columns} columns"):
        Chain.of(state, "input", [(site.name, 64, 0)])


# ---- one scale for several weights ----

SHARED: list[tuple[str, dict[str, Any]]] = [
    ("nvfp4", {}),
    ("nvfp4", {"reference": "modelopt"}),
    ("fp8_e4m3", {"granularity": "tensor"}),
    ("int8", {"granularity": "tensor", "symmetric": True}),
]


def test_which_sites_are_fused() -> None:
    assert fused_with("model.layers.3.mlp.up_proj") == (
        "model.layers.3.mlp.gate_proj",
        "model.layers.3.mlp.up_proj",
    )
    assert len(fused_with("model.layers.3.self_attn.k_proj")) == 3
    assert fused_with("lm_head") == ("lm_head",)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("error", "options"), SHARED, ids=str)
def test_layers_with_one_scale_are_the_fused_weight(
    error: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    """q, k and v of a wrapped model: what each multiplies is its rows of the rounded whole."""
    model: Any = make_family("qwen2", dtype)
    attention, mlp = model.model.layers[0].self_attn, model.model.layers[0].mlp
    with torch.no_grad():
        attention.k_proj.weight[3, 5] = 1.75  # the largest, of the smallest matrix
        mlp.up_proj.weight[2, 1] = 1.75
    groups = [[attention.q_proj, attention.k_proj, attention.v_proj], [mlp.gate_proj, mlp.up_proj]]
    scope = {"targets": ["linear"], "exclude": ["lm_head"], "error": error, "point": "weight"}
    clean = model(IDS).logits
    wrap(model, NoiseConfig(**scope, options={**options, "share": "fused"}), quiet=True)
    seen: dict[int, Tensor] = {}
    original = torch.nn.functional.linear

    def see(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.setdefault(len(seen), weight.detach())
        return original(x, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", see)
        model(IDS)
    used = list(seen.values())
    alone = error_model(word(error, **options)).function
    one = torch.tensor(1.0)
    for group, first in ((groups[0], 0), (groups[1], 4)):
        whole = torch.cat([layer.weight for layer in group]).detach().float()
        right = alone(whole, one, None).to(dtype).split([layer.out_features for layer in group])
        for got, part in zip(used[first:], right, strict=False):
            assert torch.equal(got, part)
        by_itself = alone(group[0].weight.detach().float(), one, None).to(dtype)
        assert not torch.equal(right[0], by_itself), "the test's weights can't tell"
    with disabled(model):
        assert torch.equal(model(IDS).logits, clean)


def test_gradients_pass_a_shared_scale() -> None:
    model: Any = wrap(
        make_family("qwen2"),
        NoiseConfig(error="nvfp4", point="weight", options={"share": "fused"}),
        quiet=True,
    )
    model(IDS, labels=IDS).loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()


def test_a_shared_scale_compiled_copied_and_followed() -> None:
    """Compiled the same bits; a copy has partners of its own; a partner's new weight is seen."""
    spec = NoiseConfig(error="nvfp4", point="weight", options={"share": "fused"}, layers=[0])
    model: Any = wrap(make_family("qwen2"), spec, quiet=True)
    torch._dynamo.reset()
    with torch.no_grad():
        eager = model(IDS).logits
        assert torch.equal(torch.compile(model, backend="aot_eager")(IDS).logits, eager)
        other = copy.deepcopy(model)
        mlp, copied = model.model.layers[0].mlp, other.model.layers[0].mlp
        assert copied.up_proj.hetero_noise.partners == (copied.gate_proj,)
        mlp.gate_proj.weight[0, 0] = 40.0
        assert not torch.equal(model(IDS).logits, eager)
        assert torch.equal(other(IDS).logits, eager)
        again = pickle.loads(pickle.dumps(other))
        assert torch.equal(again(IDS).logits, eager)
        assert again.model.layers[0].mlp.up_proj.hetero_noise.partners[0] is not copied.gate_proj


def test_partners_that_are_not_there_are_named() -> None:
    site = Site("model.layers.0.self_attn.q_proj", "linear", 0, 64, 64)
    spec = NoiseConfig(error="nvfp4", point="weight", options={"share": "fused"})
    state = NoiseState(spec, [site])
    chain = Chain.of(state, "weight", [(site.name, 64, 0)])
    weight = values(torch.float32)[:, :64]
    with pytest.raises(ConfigError, match=r"q_proj shares its scale with.*one is \[0\]"):
        with_shared_scale(chain, weight, [torch.empty(0)], state.draw, site.name)


def test_a_second_rule_on_a_shared_weight_is_refused() -> None:
    both = [
        {"targets": ["linear"], "error": "relative_gaussian", "scale": 0.1, "point": "weight"},
        {"targets": ["linear"], "error": "nvfp4", "point": "weight", "options": {"share": "fused"}},
    ]
    with pytest.raises(ConfigError, match="beside another rule on its weight"):
        wrap(make_family("qwen2"), NoiseConfig(rules=both), quiet=True)


def test_the_slices_of_a_fused_layer_have_one_scale() -> None:
    """vLLM's: parts of one weight, each with an input of its own."""
    pytest.importorskip("vllm")
    from hetero_plugin.vllm.linear import RowSlice

    names = [f"model.layers.0.self_attn.{leaf}_proj" for leaf in "qkv"]
    sites = [Site(name, "linear", 0, 32, 64) for name in names]
    spec = NoiseConfig(error="nvfp4", point="weight", options={"share": "fused"})
    state = NoiseState(spec, sites)
    whole = values(torch.float32)[:, :64].repeat(6, 1) * torch.linspace(1, 3, 96)[:, None]
    slices = []
    for i, name in enumerate(names):
        chain = Chain.of(state, "weight", [(name, 64, 0)])
        empty = Chain("input", ())
        slices.append(RowSlice(32 * i, 32, 0, empty, chain, torch.device("cpu")))
        slices[-1].weight = nn.Parameter(whole[32 * i : 32 * i + 32], requires_grad=False)
    for one in slices:
        one.others = [other for other in slices if other is not one]
    got = torch.cat([one.noisy_weight(state.draw) for one in slices])
    assert torch.equal(got, nvfp4(whole))
    assert MODELS["nvfp4"].whole_tensor
