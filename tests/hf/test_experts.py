"""Experts and routers: transformers' own to the bit when off, one noise in every implementation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hetero_plugin import ConfigError, NoiseConfig, random
from hetero_plugin.hf import disabled, set_step, state_of, wrap
from hetero_plugin.hf.experts import IMPLEMENTATIONS
from hetero_plugin.operator import record
from tests.hf.families import MOE, make_family, tokens

ALL = ["linear", "norm", "activation", "attention", "router"]


def run(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    out = model(ids, labels=ids)
    out.loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": out.logits.detach(), **found}


def make(family: str, implementation: str, dtype: torch.dtype = torch.float32) -> Any:
    model = make_family(family, dtype)
    model.set_experts_implementation(implementation)
    assert model.config._experts_implementation == implementation
    return model


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("family", MOE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_off_is_the_clean_model(family: str, implementation: str, dtype: torch.dtype) -> None:
    ids = tokens()
    clean = run(make(family, implementation, dtype), ids)
    for spec in (
        NoiseConfig(scale=0.0, targets=ALL),
        NoiseConfig(scale=0.0, targets=["linear", "router"], point="weight"),
        NoiseConfig(scale=0.0, targets=["linear", "router", "norm"], point="input"),
    ):
        model = wrap(make(family, implementation, dtype), spec, quiet=True)
        assert type(model.model.layers[1].mlp.experts).__name__.startswith("Noisy")
        off = run(model, ids)
        assert off.keys() == clean.keys()
        assert all(torch.equal(off[name], value) for name, value in clean.items())
    model = wrap(make(family, implementation, dtype), NoiseConfig(scale=0.1, targets=ALL))
    with disabled(model):
        off = run(model, ids)
    assert all(torch.equal(off[name], value) for name, value in clean.items())
    assert not torch.equal(run(model, ids)["logits"], clean["logits"])


@pytest.mark.parametrize("point", ["output", "input", "weight"])
def test_every_implementation_has_the_same_noise(point: str) -> None:
    """Outputs and gradients; the distance from the clean ones shows that it is not by absence."""
    spec = NoiseConfig(scale=0.1, targets=["linear", "router"], point=point)
    ids = tokens()
    clean = run(make("qwen2_moe", "eager"), ids)
    noisy = [run(wrap(make("qwen2_moe", name), spec, quiet=True), ids) for name in IMPLEMENTATIONS]
    for name in clean:
        effect = float((noisy[0][name] - clean[name]).norm() / clean[name].norm())
        assert effect > 0.01, name
        for other in noisy[1:]:
            gap = float((other[name] - noisy[0][name]).norm() / clean[name].norm())
            assert gap < 1e-5 + effect / 1000, name


def test_a_row_is_a_token_at_an_expert() -> None:
    """The realised z of the experts' GEMMs is that of its address, and no two rows share one."""
    model = make("qwen3_moe", "grouped_mm")
    site = "model.layers.1.mlp.experts.down_proj"
    wrap(model, NoiseConfig(scale=0.01, targets=[site], direction="forward", rounding="nearest"))
    ids = tokens(batch=1, length=12)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    routed: list[torch.Tensor] = []
    hook = model.model.layers[1].mlp.gate.register_forward_hook(
        lambda m, a, out: routed.append(out[2])
    )
    with record(lambda names, stream, a, b: seen.append((a, b))), torch.no_grad():
        model(ids)
    hook.remove()
    ((before, after),) = seen
    z = ((after - before) / (before.abs() * 0.01)).double()
    expert, order = torch.sort(routed[0].reshape(-1))
    keys = random.row_keys(ids, torch.arange(12)[None]).reshape(-1)[order // 2]
    wanted = random.normal(
        torch.tensor([random.clock_key(0, 0)]),
        torch.tensor([random.site_key(site, "output")]),
        random.expert_keys(keys, expert),
        0,
        32,
    )
    keep = before.abs() > 1e-3
    assert keep.float().mean() > 0.5
    torch.testing.assert_close(z[keep], wanted.double()[keep], rtol=0, atol=2e-2)
    assert len({tuple(row.tolist()) for row in wanted}) == 24


def test_expert_keys_do_not_collide() -> None:
    keys = random.row_keys(torch.arange(300)[:, None], torch.arange(300)[None]).reshape(-1, 1)
    found = random.expert_keys(keys.expand(-1, 8), torch.arange(8).expand(len(keys), 8))
    assert found.unique().numel() == found.numel()


def test_gradient_error_of_experts_is_keyed_by_the_micro_batch() -> None:
    """grad_weight: of the size asked for, reproducible, new at the next step."""
    ids, name = tokens(), "model.layers.1.mlp.experts.down_proj"
    spec = NoiseConfig(scale=0.05, targets=[name], direction="backward")
    clean = run(make("qwen3_moe", "grouped_mm"), ids)
    model = wrap(make("qwen3_moe", "grouped_mm"), spec)
    noisy = run(model, ids)
    assert torch.equal(clean["logits"], noisy["logits"])
    keep = clean[name].abs() > 1e-6
    z = ((noisy[name] - clean[name])[keep] / clean[name][keep] / 0.05).double()
    assert keep.sum() > 500
    # 8 sigma of the mean and of the standard deviation of as many normals.
    assert abs(float(z.mean())) < 8 / math.sqrt(z.numel())
    assert abs(float(z.std()) - 1) < 8 / math.sqrt(2 * z.numel())
    assert torch.equal(run(model, ids)[name], noisy[name])
    set_step(model, 1)
    assert not torch.equal(run(model, ids)[name], noisy[name])


@pytest.mark.parametrize("family", MOE)
def test_the_mlp_preset_has_the_down_projections_of_all_kinds_of_layers(family: str) -> None:
    """Also where every layer has experts, and no layer a plain mlp.down_proj."""
    model = make_family(family, decoder_sparse_step=1, mlp_only_layers=[])
    state = state_of(wrap(model, "mlp", quiet=True))
    leaves = {c.site.name.split(".", 3)[-1] for c in state.selected if c.site.kind == "linear"}
    shared = {"mlp.shared_expert.down_proj"} if family == "qwen2_moe" else set()
    assert leaves == {"mlp.experts.down_proj"} | shared


def test_what_error_cannot_enter_is_refused() -> None:
    model = make_family("qwen3_moe")
    wrap(model, NoiseConfig(scale=0.1, targets="linear"))
    model.config._experts_implementation = "deepgemm"
    with pytest.raises(ConfigError, match=r"'deepgemm'.*it can in: eager, grouped_mm, batched_mm"):
        model(tokens())
    biased = make_family("qwen3_moe")
    biased.model.layers[1].mlp.experts.has_bias = True
    with pytest.raises(ConfigError, match="holds its experts in a way"):
        wrap(biased, NoiseConfig(scale=0.1, targets="linear"))
    other = make_family("qwen3_moe")
    other.model.layers[1].mlp.gate.norm_topk_prob = None
    gate = other.model.layers[1].mlp.gate

    class SigmoidRouter(type(gate)):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> Any:
            logits, scores, index = super().forward(x)
            return logits, scores.sigmoid(), index

    gate.__class__ = SigmoidRouter
    with pytest.raises(ConfigError, match="does not route as Qwen-MoE"):
        wrap(other, NoiseConfig(scale=0.1, targets="router"))
    wrap(other, NoiseConfig(scale=0.1, targets="linear"))  # the router is left alone
