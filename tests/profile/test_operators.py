"""Operators by themselves: what they read in a model, what they give, and their references.

About 20 s.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.config import ConfigError
from hetero_plugin.profile.operators import Operator, chosen_columns, references, variant
from hetero_plugin.profile.operators.capture import captured
from hetero_plugin.profile.operators.hf import HFOperators, operators_of
from tests.hf.families import make_family

SEQUENCES = [[3, 9, 4, 60, 7, 2, 8], [5], [11, 12, 13], [90, 1, 1, 2, 40]]
LENGTHS = tuple(len(ids) for ids in SEQUENCES)
T = sum(LENGTHS)
DTYPES = [torch.bfloat16, torch.float32]


def read(
    family: str = "qwen3", dtype: torch.dtype = torch.bfloat16, columns: int = 20, **how: Any
) -> tuple[Any, HFOperators, dict[str, dict[str, Tensor]]]:
    """A model, its operators, and what they read."""
    model = make_family(family, dtype)
    found = operators_of(model, LENGTHS, columns)
    with torch.no_grad():
        return model, found, captured(model, found, list(found.operators), SEQUENCES, **how)


def near(found: Tensor, wanted: Tensor, dtype: torch.dtype, times: float = 4.0) -> None:
    """That values agree to a few roundings of a dtype, beside the largest of their row."""
    size = wanted.abs().amax(dim=-1, keepdim=True) + 1e-30
    error = ((found.double() - wanted).abs() / size).max().item()
    assert error < times * torch.finfo(dtype).eps, error


def test_columns_are_a_matter_of_the_name_alone() -> None:
    name = "model.layers.0.mlp.up_proj"
    key = random.site_key(name, "recording")
    signed = [random.signed(random.mix64((i ^ key) & (2**64 - 1))) for i in range(4864)]
    wanted = sorted(sorted(range(4864), key=signed.__getitem__)[:6])
    assert chosen_columns(name, 4864, 6).tolist() == wanted
    assert wanted[:3] == [805, 1167, 2733]  # kept in files
    assert torch.equal(chosen_columns("a", 5, 5), torch.arange(5))
    many = [chosen_columns(f"layer.{i}", 1000, 100) for i in range(50)]
    counts = torch.cat(many).bincount(minlength=1000)
    assert all(len(one.unique()) == 100 and torch.equal(one, one.sort().values) for one in many)
    assert counts.max() <= 16 and (counts == 0).sum() < 20  # 5 each on average


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_operator_reads_what_the_model_gives_it(dtype: torch.dtype) -> None:
    """Its output, run by itself on all rows, is what the next one reads in the model's pass."""
    model, found, inputs = read("qwen3", dtype)
    assert all(one["x" if "x" in one else "q"].shape[0] == T for one in inputs.values())
    assert list(inputs)[:9] == [
        f"model.layers.0.{leaf}"
        for leaf in ("input_layernorm", "self_attn.q_proj", "self_attn.q_norm", "self_attn.k_proj",
                     "self_attn.k_norm", "self_attn.v_proj", "self_attn", "self_attn.o_proj",
                     "post_attention_layernorm")
    ]  # fmt: skip

    def gives(name: str) -> Tensor:
        with torch.no_grad():
            return found.operators[name].run(inputs[name])

    def reads(name: str, key: str = "x") -> Tensor:
        return inputs[name][key]

    layer = "model.layers.0."
    chains = [
        ("input_layernorm", "self_attn.q_proj", "x"),
        ("self_attn.q_proj", "self_attn.q_norm", "x"),
        ("self_attn.v_proj", "self_attn", "v"),
        ("self_attn", "self_attn.o_proj", "x"),
        ("post_attention_layernorm", "mlp.gate_proj", "x"),
        ("mlp.gate_proj", "mlp.act_fn", "x"),
    ]
    for one, other, key in chains:
        # GEMMs of other numbers of rows may add up in another order.
        near(gives(layer + one), reads(layer + other, key).double(), dtype)
    stream = reads(layer + "input_layernorm") + gives(layer + "self_attn.o_proj")
    near(stream, reads(layer + "post_attention_layernorm").double(), dtype)
    product = gives(layer + "mlp.act_fn") * gives(layer + "mlp.up_proj")
    near(product, reads(layer + "mlp.down_proj").double(), dtype)
    near(gives("model.norm"), reads("lm_head").double(), dtype)
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([ids])).logits[0] for ids in SEQUENCES]
    near(gives("lm_head"), torch.cat(logits).double(), dtype)


def np_norm(x: Any, weight: Any, eps: float) -> Any:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def np_attention(q: Any, k: Any, v: Any, head: int) -> Any:
    out = np.zeros_like(q)
    shared = q.shape[1] // k.shape[1]
    start = 0
    for length in LENGTHS:
        for t in range(start, start + length):
            for h in range(q.shape[1] // head):
                mine = slice(h * head, (h + 1) * head)
                other = slice(h // shared * head, (h // shared + 1) * head)
                scores = [q[t, mine] @ k[s, other] / math.sqrt(head) for s in range(start, t + 1)]
                p = np.exp(np.array(scores) - max(scores))
                out[t, mine] = (p / p.sum()) @ v[start : t + 1, other]
        start += length
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_references_are_the_plain_formulas_in_float64(dtype: torch.dtype) -> None:
    model, found, inputs = read("qwen3", dtype)
    weights = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    seen = set()
    for name, operator in found.operators.items():
        x = {key: value.double().numpy() for key, value in inputs[name].items()}
        weight = weights.get(f"{name}.weight")
        if operator.kind in ("linear", "lm_head"):
            wanted = x["x"] @ weight.T  # type: ignore[union-attr]
        elif operator.kind == "norm":
            heads = operator.n // len(weight)  # type: ignore[arg-type]
            split = x["x"].reshape(T, heads, -1)
            wanted = np_norm(split, weight, operator.extra["eps"]).reshape(T, -1)
        elif operator.kind == "activation":
            wanted = x["x"] / (1 + np.exp(-x["x"]))
        else:
            wanted = np_attention(x["q"], x["k"], x["v"], int(operator.extra["head"]))
        seen.add((operator.kind, operator.extra.get("heads", 1) > 1))
        assert operator.reference is not None
        with torch.no_grad():
            reference, y = operator.reference(inputs[name]), operator.run(inputs[name])
        assert reference.dtype == torch.float64 and y.dtype == dtype
        wanted = torch.from_numpy(wanted)[:, operator.columns]
        assert torch.allclose(reference, wanted, rtol=1e-11, atol=1e-12), name
        near(y[:, operator.columns], wanted, dtype)
    assert seen == {("linear", False), ("lm_head", False), ("norm", False), ("norm", True),
                    ("activation", False), ("attention", False)}  # fmt: skip


def test_gemmas_norm_adds_one_and_olmos_is_of_all_heads() -> None:
    for family, one in (("gemma3_text", 1.0), ("olmo2", 0.0)):
        model, found, inputs = read(family, torch.bfloat16)
        norms = [o for o in found.operators.values() if o.kind == "norm"]
        assert any("q_norm" in o.name for o in norms)
        for operator in norms:
            weight = model.get_parameter(f"{operator.name}.weight").detach().double().numpy()
            x = inputs[operator.name]["x"].double().numpy().reshape(T, -1, len(weight))
            wanted = np_norm(x, weight + one, operator.extra["eps"]).reshape(T, -1)
            assert operator.reference is not None
            reference = operator.reference(inputs[operator.name])
            kept = torch.from_numpy(wanted)[:, operator.columns]
            assert torch.allclose(reference, kept, rtol=1e-11, atol=1e-12), operator.name


def test_what_is_not_recorded_is_named() -> None:
    model = make_family("gemma2", torch.float32)
    found = operators_of(model, LENGTHS, 8)
    assert {name: why for name, why in found.left_out.items() if name.endswith("self_attn")}
    model = make_family("qwen3_moe", torch.float32)
    found = operators_of(model, LENGTHS, 8)
    assert "linear in" in found.left_out["model.layers.1.mlp.experts.down_proj"]
    assert any("router" in why for why in found.left_out.values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_inputs_are_the_addends_and_the_factor(dtype: torch.dtype) -> None:
    _, plain, before = read("qwen2", dtype)
    _, found, inputs = read("qwen2", dtype, fused=True)
    assert set(inputs["model.layers.0.input_layernorm"]) == {"x"}  # reads an embedding
    for layer in (0, 1):
        name = f"model.layers.{layer}.post_attention_layernorm"
        one = inputs[name]
        assert torch.equal(one["x"] + one["residual"], before[name]["x"])
        assert torch.equal(found.operators[name].run(one), plain.operators[name].run(before[name]))
        act = inputs[f"model.layers.{layer}.mlp.act_fn"]
        y = found.operators[f"model.layers.{layer}.mlp.act_fn"].run(act)
        # In float32 an exponential depends on where in a vector register the element lies.
        near(y, before[f"model.layers.{layer}.mlp.down_proj"]["x"].double(), dtype)
    assert set(inputs["model.norm"]) == set(inputs["model.layers.1.input_layernorm"])
    one = {key: value.double() for key, value in inputs["model.norm"].items()}
    reference = found.operators["model.norm"].reference
    assert reference is not None
    weight = found.operators["model.norm"].weight
    assert weight is not None
    wanted = np_norm((one["x"] + one["residual"]).numpy(), weight.detach().double().numpy(), 1e-6)
    kept = torch.from_numpy(wanted)[:, found.operators["model.norm"].columns]
    assert torch.allclose(reference(inputs["model.norm"]), kept, rtol=1e-11)
    act = {key: value.double() for key, value in inputs["model.layers.0.mlp.act_fn"].items()}
    made = found.operators["model.layers.0.mlp.act_fn"].reference
    assert made is not None
    product = act["x"] * torch.sigmoid(act["x"]) * act["up"]
    columns = found.operators["model.layers.0.mlp.act_fn"].columns
    assert torch.allclose(made(inputs["model.layers.0.mlp.act_fn"]), product[:, columns])


def one_linear(k: int = 300, n: int = 40, dtype: torch.dtype = torch.bfloat16) -> Operator:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(n, k, generator=generator).to(dtype)
    bias = torch.randn(n, generator=generator).to(dtype)
    kept = torch.arange(0, n, 3)
    return Operator(
        "model.layers.0.mlp.up_proj", "linear", 0, k, n, kept,
        lambda inputs: torch.nn.functional.linear(inputs["x"], weight, bias),
        lambda inputs: references.linear(inputs, weight, bias, kept), weight, bias,
    )  # fmt: skip


def inputs_of(k: int = 300, rows: int = 33) -> dict[str, Tensor]:
    return {"x": torch.randn(rows, k, generator=torch.Generator().manual_seed(1)).bfloat16()}


def changed(word: str, operator: Operator, inputs: dict[str, Tensor]) -> Tensor:
    how = variant(word)
    with how.around(), torch.no_grad():
        return how.change(operator).run(inputs)


def test_variants_of_a_linear_layer() -> None:
    operator, inputs = one_linear(), inputs_of()
    plain = operator.run(inputs)
    assert operator.weight is not None and operator.bias is not None
    wide = inputs["x"].float() @ operator.weight.float().T + operator.bias.float()
    assert torch.equal(changed("fp32-gemm", operator, inputs), wide.bfloat16())
    parts = torch.cat([operator.run({"x": row[None]}) for row in inputs["x"]])
    assert torch.equal(changed("rows:1", operator, inputs), parts)
    assert torch.equal(changed("rows:50", operator, inputs), plain)
    assert torch.equal(changed("plain", operator, inputs), plain)
    before = torch.get_num_threads(), torch.backends.mkldnn.enabled
    for word in ("no-onednn", "threads:1", "threads:2"):
        near(changed(word, operator, inputs), wide.double(), torch.bfloat16)
    assert (torch.get_num_threads(), torch.backends.mkldnn.enabled) == before


def test_a_matrix_unit_by_its_exact_sums() -> None:
    from hetero_plugin.errors.accumulate import HARDWARE, accumulate

    operator, inputs = one_linear(), inputs_of(rows=5)
    assert operator.weight is not None and operator.bias is not None
    y = changed("accumulate:hopper", operator, inputs)
    numbers = HARDWARE["hopper"]["bfloat16"].numbers
    exact = accumulate(inputs["x"].float(), operator.weight.float(), numbers)
    wanted = (exact + operator.bias.float()).bfloat16()
    assert torch.equal(y[:, operator.columns], wanted[:, operator.columns])
    with pytest.raises(ConfigError, match=r"volta.*no matrix unit for operands of bfloat16"):
        changed("accumulate:volta", operator, inputs)


def test_the_gaussian_control_has_its_scale_and_repeats() -> None:
    operator, inputs = one_linear(n=400), inputs_of(rows=200)
    clean = operator.run(inputs)
    y = changed("gaussian:0.05", operator, inputs)
    assert torch.equal(y, changed("gaussian:0.05", operator, inputs))
    error = (y.double() - clean.double()) / clean.double()
    # 80,000 draws: 5 % within 1 %, and the rounding of bfloat16 on top.
    assert error.std().item() == pytest.approx(0.05, rel=0.02)
    assert abs(error.mean().item()) < 0.001


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["norm", "activation", "attention", "linear"])
def test_compiled_is_the_same_operator(kind: str) -> None:
    """To a few roundings; where norms round is what the compiler moves."""
    _, found, inputs = read("qwen2")
    operator = next(one for one in found.operators.values() if one.kind == kind)
    y = changed("compiled", operator, inputs[operator.name])
    assert operator.reference is not None
    near(y[:, operator.columns], operator.reference(inputs[operator.name]), torch.bfloat16)


@pytest.mark.parametrize(
    "word", ["nothing", "plain:1", "threads", "threads:0", "threads:two", "gaussian:-1", "rows:"]
)
def test_words_that_are_no_variant(word: str) -> None:
    with pytest.raises(ConfigError, match=f"--as '{word}'"):
        variant(word)
