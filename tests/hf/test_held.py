"""A weight with a fixed error is computed once a version, and released; training follows its steps.

About 10 seconds.
"""

from __future__ import annotations

import copy
import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from hetero_plugin import NoiseConfig
from hetero_plugin.errors.formats import FORMATS
from hetero_plugin.hf import disabled, set_step, state_of, unwrap, wrap
from hetero_plugin.hf.held import HeldWeight
from hetero_plugin.operator import Chain

SPEC = NoiseConfig(targets=["linear"], error="mxfp4", point="weight")
SITE = "model.layers.1.mlp.up_proj"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sites whose weight is computed, as it happens."""
    sites: list[str] = []
    call = Chain.__call__

    def counted(self: Chain, *args: Any, **kwargs: Any) -> Any:
        if self.stream == "weight":
            sites.append(self.parts[0][0])
        return call(self, *args, **kwargs)

    monkeypatch.setattr(Chain, "__call__", counted)
    return sites


def fake(model: nn.Module) -> nn.Module:
    """The clean model with its weights stored in the format: what a noisy one computes."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                q = FORMATS["mxfp4"].apply(module.weight.float())
                module.weight = nn.Parameter(q.to(module.weight.dtype))
    return model


def test_wrap_says_the_bytes(make, ids, caplog: pytest.LogCaptureFixture) -> None:
    """Those that the layers then hold."""
    caplog.set_level(logging.INFO, logger="hetero_noise")
    model: Any = wrap(make().bfloat16(), SPEC)
    with torch.no_grad():
        model(ids)
    modules = [m for m in model.modules() if isinstance(m, nn.Linear)]
    held = sum(module.__dict__["hetero_noise"].held.nbytes for module in modules)
    said = [line for line in caplog.messages if "weights have a fixed error" in line]
    assert len(said) == 1 and "15 weights have a fixed error, computed once" in said[0]
    assert f"kept beside them: {held / 2**20:.1f} MiB" in said[0]
    caplog.clear()
    wrap(make(), NoiseConfig(scale=0.1, targets=["linear"], point="weight"))
    assert "fixed error" not in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_evaluation_computes_each_weight_once(make, ids, computed, dtype) -> None:
    clean = make().to(dtype)
    model = wrap(copy.deepcopy(clean), SPEC)
    with torch.no_grad():
        first = model(ids).logits
        assert len(computed) == len(set(computed)) == 15
        set_step(model, 7)
        assert torch.equal(model(ids[:2]).logits, first[:2])
        with disabled(model):
            assert torch.equal(model(ids).logits, clean(ids).logits)
        assert torch.equal(model(ids).logits, first)
        assert len(computed) == 15
        assert torch.equal(first, fake(clean)(ids).logits)


def in_place(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.mul_(1.5)


def another_storage(weight: nn.Parameter) -> None:
    weight.data = weight.data * 1.5


def past_autograd(weight: nn.Parameter) -> None:
    weight.data.mul_(1.5)


def an_optimizer_behind_the_version(weight: nn.Parameter) -> None:
    """A library's optimizer steps on a copy of its own and writes one value back."""
    master = nn.Parameter(weight.detach().float().clone())
    master.grad = torch.zeros_like(master)
    master.grad[3, 5] = 1.0
    torch.optim.SGD([master], lr=10.0).step()
    weight.data.copy_(master.data)


@pytest.mark.parametrize(
    "change", [in_place, another_storage, past_autograd, an_optimizer_behind_the_version]
)
def test_a_changed_weight_is_seen(make, ids, change: Callable[[nn.Parameter], None]) -> None:
    model = wrap(make(), SPEC)
    with torch.no_grad():
        before = model(ids).logits
        change(model.get_submodule(SITE).weight)
        after = model(ids).logits
        assert not torch.equal(before, after)
        clean = make()
        clean.load_state_dict(model.state_dict())
        assert torch.equal(after, fake(clean)(ids).logits)


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_training_computes_each_weight_once_a_step(make, ids, computed, reentrant) -> None:
    """Also where layers are recomputed: two micro-batches and their backward passes share it."""
    model = wrap(make(), SPEC).train()
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        for batch in (ids[:2], ids[1:]):
            model(batch, labels=batch).loss.backward()
        assert len(computed) == 15 * (step + 1)
        optimizer.step()
        optimizer.zero_grad()


def test_it_is_neither_saved_nor_copied_and_goes_with_unwrap(make, ids) -> None:
    model = wrap(make(), SPEC)
    model(ids)
    noise = model.get_submodule(SITE).hetero_noise
    assert noise.held.nbytes == model.get_submodule(SITE).weight.nbytes
    assert set(model.state_dict()) == set(make().state_dict())
    assert copy.deepcopy(model).get_submodule(SITE).hetero_noise.held.nbytes == 0
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert loaded.get_submodule(SITE).hetero_noise.held.nbytes == 0
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    unwrap(model)
    assert not any(isinstance(value, HeldWeight) for m in model.modules() for value in vars(m))
    assert "hetero_noise" not in vars(model.get_submodule(SITE))


def test_what_can_not_be_proven_is_computed_at_every_use(make, ids, computed) -> None:
    """A parametrized weight is another tensor each time; a scale is part of what is known."""
    model = make()
    site = model.get_submodule(SITE)
    nn.utils.parametrizations.weight_norm(site)
    wrap(model, SPEC)
    with torch.no_grad():
        for _ in range(2):
            model(ids)
        assert computed.count(SITE) == 2 and len(computed) == 16
        state_of(model).set_scale(0.5, site="lm_head")
        model(ids)
    assert computed.count("lm_head") == 2 and len(computed) == 18


def test_a_weight_that_is_not_contiguous_is_computed_at_every_use(make, ids, computed) -> None:
    """As a library leaves it that transposes what it loads; its values are the same."""
    model, plain = wrap(make(), SPEC), wrap(make(), SPEC)
    site = model.get_submodule(SITE)
    site.weight = nn.Parameter(site.weight.detach().t().contiguous().t())
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain(ids).logits)
        computed.clear()
        model(ids)
    assert computed == [SITE]
    model(ids, labels=ids).loss.backward()
    plain(ids, labels=ids).loss.backward()
    assert torch.equal(site.weight.grad, plain.get_submodule(SITE).weight.grad)


@pytest.fixture
def hurried() -> Iterator[None]:
    """Threads take turns every few microseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_a_pass_has_the_weights_of_its_own_scale_whatever_other_threads_set(
    make, ids, hurried: None
) -> None:
    """While a thread sets one scale and another, a pass is that of one of the two; and afterwards
    no weight is held that is the other's."""
    model = wrap(make(num_hidden_layers=1), SPEC)
    state, ids, done = state_of(model), ids[:1, :5], threading.Event()

    def run() -> torch.Tensor:
        with torch.no_grad():
            return model(ids).logits

    one = run()
    state.set_scale(0.5)
    known = [one, run()]
    found: list[bool] = []

    def passes() -> None:
        for _ in range(12):
            logits = run()
            found.append(any(torch.equal(logits, other) for other in known))

    def switch() -> None:
        while not done.is_set():
            state.set_scale(1.0)
            state.set_scale(0.5)

    runners = [threading.Thread(target=passes) for _ in range(3)]
    switcher = threading.Thread(target=switch)
    for thread in (switcher, *runners):
        thread.start()
    for thread in runners:
        thread.join()
    done.set()
    switcher.join()
    assert len(found) == 36 and all(found)
    state.set_scale(1.0)
    assert torch.equal(run(), one)


def test_in_a_process_group_it_is_computed_at_every_use(make, ids, computed, monkeypatch) -> None:
    """FSDP gathers other values behind a parameter's version."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    model = wrap(make(), SPEC)
    with torch.no_grad():
        for _ in range(2):
            model(ids)
    assert len(computed) == 30


def test_what_inference_mode_computed_can_be_trained_with(make, ids, computed) -> None:
    model = wrap(make(), SPEC)
    with torch.inference_mode():
        model(ids)
    model.train()(ids, labels=ids).loss.backward()
    assert len(computed) == 15
    assert model.get_submodule(SITE).weight.grad is not None


def test_a_weight_that_shares_a_scale_follows_its_partners(make, ids, computed) -> None:
    """q, k and v have one scale: a change of k's largest makes all three new."""
    options = {"share": "fused"}
    spec = NoiseConfig(
        targets=["*.self_attn.*_proj"], error="nvfp4", point="weight", options=options
    )
    model = wrap(make(), spec)
    names = [f"model.layers.0.self_attn.{leaf}_proj" for leaf in "qkvo"]
    with torch.no_grad():
        model(ids)
        model(ids)
        assert len(computed) == 8
        model.get_submodule(names[1]).weight[3, 5] = 1.7
        after = model(ids).logits
    assert sorted(computed[8:]) == sorted(names[:3])
    fresh = make()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(wrap(fresh, spec)(ids).logits, after)
