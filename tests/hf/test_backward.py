"""Error on gradients: against a reference autograd function, keyed apart, nothing stored."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hetero_plugin import NoiseConfig, random
from hetero_plugin.hf import set_step, wrap
from hetero_plugin.hf.wrap import state_of

SCALE = 0.05


class E4b(torch.autograd.Function):
    """The study's formula: y + z|y|s forward; on both gradients of the GEMM, z|g|s of their own."""

    @staticmethod
    def forward(ctx, x, weight, z_y, z_x, z_w):
        ctx.save_for_backward(x, weight, z_x, z_w)
        y = x @ weight.T
        return y + z_y * y.abs() * SCALE

    @staticmethod
    def backward(ctx, grad):
        x, weight, z_x, z_w = ctx.saved_tensors
        grad_x, grad_w = grad @ weight, grad.T @ x
        return (
            grad_x + z_x * grad_x.abs() * SCALE,
            grad_w + z_w * grad_w.abs() * SCALE,
            None,
            None,
            None,
        )


def z_of(
    site: str, stream: str, rows: torch.Tensor, columns: int, clock: torch.Tensor
) -> torch.Tensor:
    key = torch.tensor([random.site_key(site, stream)])
    return random.normal(clock, key, rows.reshape(-1), 0, columns)


@pytest.mark.parametrize("leaf", ["down_proj", "up_proj"])
def test_equals_the_reference_function_given_its_keys(make, ids, leaf) -> None:
    site = f"model.layers.1.mlp.{leaf}"
    model = wrap(make(), NoiseConfig(scale=SCALE, targets=[site], rounding="nearest"))
    layer = model.get_submodule(site)
    seen: dict[str, torch.Tensor] = {}
    pre = layer.register_forward_pre_hook(lambda m, a: seen.update(x=a[0].detach().clone()))
    back = layer.register_full_backward_hook(
        lambda m, gi, go: seen.update(grad_x=gi[0].clone(), grad_y=go[0].clone())
    )
    model(ids, labels=ids).loss.backward()
    pre.remove()
    back.remove()
    rows = random.row_keys(ids, torch.arange(17).expand(3, 17)).reshape(-1)
    clock = torch.tensor([random.clock_key(0, 0)])
    out, into = layer.weight.shape
    mixed = random.mix64_tensor(clock ^ random.batch_key(rows))
    x = seen["x"].reshape(-1, into).requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    y = E4b.apply(
        x,
        weight,
        z_of(site, "output", rows, out, clock),
        z_of(site, "grad_input", rows, into, clock),
        z_of(site, "grad_weight", torch.arange(out), into, mixed),
    )
    y.backward(seen["grad_y"].reshape(-1, out))
    torch.testing.assert_close(seen["grad_x"].reshape(-1, into), x.grad, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-4, atol=1e-8)


def run(model: torch.nn.Module, *batches: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    losses = [model(batch, labels=batch).loss for batch in batches]
    sum(losses).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_backward_error_alone_leaves_the_forward_clean(make, ids) -> None:
    clean = make()
    noisy = wrap(make(), NoiseConfig(scale=SCALE, targets=["linear"], direction="backward"))
    assert torch.equal(clean(ids).logits, noisy(ids).logits)
    a, b = run(clean, ids), run(noisy, ids)
    for name in a:
        if name.endswith("proj.weight") or name == "lm_head.weight":
            relative = (b[name] - a[name]).norm() / a[name].norm()
            assert 0.3 * SCALE < relative < 10 * SCALE, name


def test_forward_error_alone_leaves_gradients_of_its_own_clean(make, ids) -> None:
    """Straight-through: the last linear's weight gradient is that of the clean operator."""
    site = "lm_head"
    model = wrap(make(), NoiseConfig(scale=SCALE, targets=[site], direction="forward"))
    seen: dict[str, torch.Tensor] = {}
    model.lm_head.register_forward_pre_hook(lambda m, a: seen.update(x=a[0].detach()))
    model.lm_head.register_full_backward_hook(lambda m, gi, go: seen.update(g=go[0]))
    run(model, ids)
    wanted = seen["g"].reshape(-1, 272).T @ seen["x"].reshape(-1, 64)
    torch.testing.assert_close(model.lm_head.weight.grad, wanted, rtol=1e-5, atol=1e-8)


def test_micro_batches_draw_independently_and_reproducibly(make, ids) -> None:
    """Error of grad_weight in two micro-batches: uncorrelated (8 sigma), yet a function of them."""
    spec = NoiseConfig(scale=SCALE, targets=["linear"], direction="backward")
    clean, noisy = make(), wrap(make(), spec)
    name = "model.layers.0.mlp.up_proj.weight"

    def z(batch: torch.Tensor) -> torch.Tensor:
        # The last site's upstream error would mix in: take up_proj's own draw from ratio signs.
        a, b = run(clean, batch)[name], run(noisy, batch)[name]
        return ((b - a) / (a.abs() * SCALE + 1e-12)).clamp(-8, 8)

    one, two = z(ids[:1]), z(ids[1:2])
    n = one.numel()
    assert abs(float((one * two).mean() / (one.std() * two.std()))) * math.sqrt(n) < 8
    assert torch.equal(one, z(ids[:1]))
    set_step(noisy, 1)
    assert not torch.equal(one, z(ids[:1]))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_checkpointing_recomputes_the_very_noise(make, ids, dtype, reentrant) -> None:
    """Two forwards before one backward: recomputation must find each micro-batch's own rows."""
    model = wrap(make(dtype), NoiseConfig(preset="all-ops")).train()
    batches = ids[:2], ids[1:].flip(1)
    plain = run(model, *batches)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    again = run(model, *batches)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_no_noise_is_kept_for_the_backward_pass(make, ids) -> None:
    """Saved tensors, by bytes: the noisy graph keeps the clean graph's, and the row keys."""

    def saved(model: torch.nn.Module) -> int:
        sizes: dict[int, int] = {}

        def pack(t: torch.Tensor) -> torch.Tensor:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = model(ids, labels=ids).loss
        total = sum(sizes.values())
        loss.backward()
        return total

    clean = saved(make())
    # Forward error makes a new output tensor in place of the clean one; none beside it.
    noisy = saved(wrap(make(), NoiseConfig(preset="linear")))
    rows = ids.numel() * 8
    keys_of_weights = sum(
        8 * m.out_features for m in make().modules() if isinstance(m, torch.nn.Linear)
    )
    assert noisy <= clean + rows + keys_of_weights + 64 * 200


RULES = {
    "outputs of every kind": {"targets": ["linear", "lm_head", "norm", "activation", "attention"]},
    "inputs": {"targets": ["linear", "lm_head"], "point": "input"},
    "weights": {"targets": ["linear"], "point": "weight"},
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_a_forward_pass_leaves_no_more_memory_behind_than_a_clean_one(make, ids, rules) -> None:
    """Net bytes that a forward pass allocates while its loss lives, by torch's own allocator."""

    def kept(model: torch.nn.Module) -> int:
        model(ids, labels=ids).loss.backward()  # what is made once is made
        with torch.profiler.profile(profile_memory=True) as profile:
            loss = model(ids, labels=ids).loss
        del loss
        return sum(event.self_cpu_memory_usage for event in profile.events())

    clean = kept(make())
    noisy = wrap(make(), {"rules": [{"scale": SCALE, **rules}]})
    copies = sum(8 * t.numel() + 256 for t in (state_of(noisy).scales, ids))
    keys_of_weights = 8 * sum(
        m.out_features for m in make().modules() if isinstance(m, torch.nn.Linear)
    )
    assert clean > 50_000
    assert kept(noisy) <= clean + copies + keys_of_weights + 64 * 200


def test_checks_of_formula_in_bfloat16(make, ids) -> None:
    """In bfloat16 the realised relative error of a whole weight's gradient is what was asked."""
    site = "lm_head"
    clean = make(torch.bfloat16)
    noisy = wrap(
        make(torch.bfloat16), NoiseConfig(scale=SCALE, targets=[site], direction="backward")
    )
    a, b = run(clean, ids)["lm_head.weight"].double(), run(noisy, ids)["lm_head.weight"].double()
    keep = a.abs() > 1e-6
    realised = ((b - a)[keep] / a[keep]).square().mean().sqrt()
    assert abs(realised / SCALE - 1) < 0.05
    assert F.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99
