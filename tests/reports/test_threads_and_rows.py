"""Rows belong to the pass that runs: threads, replicas, and calls of parts of a model."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from hetero_plugin import AQN, AQNConfig, NoiseConfig, wrap
from hetero_plugin.hf.context import MissingRows
from tests.hf.families import make_family, tokens

SPEC = NoiseConfig(scale=0.1, targets=["linear", "norm", "activation", "attention"])


@pytest.mark.parametrize("resample", ["step", "never"])
def test_threads_do_not_mix(resample: str) -> None:
    """Six threads, passes of unequal length: each is what it is alone, to the bit."""
    model = wrap(make_family("qwen2"), SPEC.replace(resample=resample), quiet=True)
    batches = [tokens(1 + seed % 3, 3 + 2 * seed, seed) for seed in range(6)]
    with torch.no_grad():
        wanted = [model(ids).logits for ids in batches]
    start = threading.Barrier(6)

    @torch.no_grad()
    def work(number: int) -> int:
        start.wait()
        wrong = 0
        for step in range(20):
            which = (number + step) % 6
            wrong += not torch.equal(model(batches[which]).logits, wanted[which])
        return wrong

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, range(6))) == 0


def test_threads_train_side_by_side() -> None:
    """Forward and backward passes with checkpointing, one model a pair of threads."""
    model = wrap(make_family("qwen2"), SPEC, quiet=True).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    batches = [tokens(2, 5 + 3 * seed, seed) for seed in range(4)]

    def gradient(ids: torch.Tensor) -> torch.Tensor:
        loss = model(ids, labels=ids).loss
        return torch.autograd.grad(loss, model.model.layers[0].mlp.up_proj.weight)[0]

    wanted = [gradient(ids) for ids in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(gradient, batches * 3))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted * 3, strict=True))


def test_a_draw_a_call_is_one_for_each_thread() -> None:
    model = wrap(make_family("qwen2"), SPEC.replace(resample="call"), quiet=True)
    ids = tokens(1, 7)

    @torch.no_grad()
    def work(_: int) -> bytes:
        return model(ids).logits.numpy().tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(work, range(24)))) == 24


def test_tasks_and_replicas() -> None:
    model = wrap(make_family("qwen2"), SPEC, quiet=True)
    batches = [tokens(1, 4 + seed, seed) for seed in range(5)]
    with torch.no_grad():
        wanted = [model(ids).logits for ids in batches]

    async def run() -> list[torch.Tensor]:
        def one(ids: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return model(ids).logits

        return await asyncio.gather(*(asyncio.to_thread(one, ids) for ids in batches))

    assert all(torch.equal(a, b) for a, b in zip(asyncio.run(run()), wanted, strict=True))
    # What DataParallel makes of a model on several devices: copies that share hooks and noise.
    replicas = [_replica(model) for _ in batches]
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda one, ids: one(ids).logits.detach(), replicas, batches))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def _replica(model: nn.Module) -> Any:
    """A replica as torch.nn.parallel.replicate makes it: shallow copies of every module."""
    copies = {id(module): module._replicate_for_data_parallel() for module in model.modules()}
    for module in model.modules():
        copy: Any = copies[id(module)]
        for name, child in module._modules.items():
            copy._modules[name] = None if child is None else copies[id(child)]
        for name, parameter in module._parameters.items():
            copy._parameters[name] = parameter
    return copies[id(model)]


def test_parts_that_run_alone_are_refused() -> None:
    model = wrap(make_family("qwen2"), SPEC, quiet=True)
    a, b = tokens(2, 6, 1), tokens(2, 6, 2)
    hidden = model.model(a).last_hidden_state
    model.model(b)
    calls: list[Any] = [
        lambda: model.lm_head(hidden),
        lambda: model.model.norm(hidden),
        lambda: model.model.layers[1].mlp(hidden),
        lambda: model.model.layers[0].self_attn.q_proj(hidden),
    ]
    for call in calls:
        with pytest.raises(MissingRows, match="outside its model's forward pass"):
            call()
    model.generate(a, max_new_tokens=3, do_sample=False, pad_token_id=0)
    for call in calls:
        with pytest.raises(MissingRows, match="outside its model's forward pass"):
            call()


@pytest.mark.parametrize("reentrant", [False, True])
def test_nothing_is_left_after_a_checkpointed_backward(reentrant: bool) -> None:
    model = wrap(make_family("qwen2"), SPEC, quiet=True).train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    ids = tokens(2, 6)
    model(ids, labels=ids).loss.backward()
    with pytest.raises(MissingRows, match="outside its model's forward pass"):
        model.model.layers[0].mlp(torch.randn(2, 6, 32))
    # Nor after a pass that failed in the middle, or a backward that did.
    broken = model.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(ids)
    broken.remove()
    with pytest.raises(MissingRows, match="outside its model's forward pass"):
        model.model.layers[0].mlp(torch.randn(2, 6, 32))


class Twice(nn.Module):
    """Runs the decoder for two batches and then one head, as contrastive losses do."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        first = self.model.model(a).last_hidden_state
        self.model.model(b)
        return self.model.lm_head(first)


def test_a_head_after_two_passes_is_refused() -> None:
    outer = wrap(Twice(make_family("qwen2")), SPEC, quiet=True)
    a, b = tokens(2, 6, 1), tokens(2, 6, 2)
    with pytest.raises(MissingRows, match="ran 2 times"):
        outer(a, b)
    spec = NoiseConfig(scale=0.1, targets="linear", exclude="lm_head")
    wrap(Twice(make_family("qwen2")), spec, quiet=True)(a, b)


def test_a_model_inside_its_own_pass() -> None:
    """A hook that runs the model again: the outer pass goes on with its own rows."""
    model = wrap(make_family("qwen2"), SPEC, quiet=True)
    a, b = tokens(2, 6, 1), tokens(3, 4, 2)
    wanted, inner = model(a).logits, model(b).logits
    seen = []
    busy = []

    def again(*_: Any) -> None:
        if not busy:
            busy.append(1)
            seen.append(model(b).logits)

    handle = model.model.layers[0].register_forward_hook(again)
    assert torch.equal(model(a).logits, wanted)
    handle.remove()
    assert torch.equal(seen[0], inner)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["model", "layers", "mlp"])
def test_compiled_parts(part: str) -> None:
    model = wrap(make_family("qwen2"), SPEC, quiet=True)
    ids = tokens(2, 6)
    with torch.no_grad():
        wanted = model(ids).logits
        if part == "model":
            model.compile(backend="aot_eager")
        for layer in model.model.layers:
            if part == "layers":
                layer.compile(backend="aot_eager")
            if part == "mlp":
                layer.mlp.compile(backend="aot_eager")
        for _ in range(2):
            torch.testing.assert_close(model(ids).logits, wanted, rtol=0, atol=1e-5)


def test_compiled_parts_under_threads_are_refused_or_right() -> None:
    model = wrap(make_family("qwen2"), SPEC, quiet=True)
    batches = [tokens(1, 6, seed) for seed in range(3)]
    with torch.no_grad():
        wanted = [model(ids).logits for ids in batches]
        for layer in model.model.layers:
            layer.mlp.compile(backend="aot_eager")
        model(batches[0])
    start = threading.Barrier(3)
    wrong, refused = [], []

    @torch.no_grad()
    def work(number: int) -> None:
        start.wait()
        for _ in range(10):
            try:
                found = model(batches[number]).logits
            except Exception as error:
                refused.append(str(error))
                continue
            if (found - wanted[number]).abs().max() > 1e-5:
                wrong.append(number)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert not wrong
    # Or a thread came in between a compiled part's guards and its first instruction.
    words = ("threads", "dynamo", "'NoneType' object has no attribute")
    assert all(any(word in text for word in words) for text in refused), sorted(set(refused))


def test_aqn_is_of_the_pass_too() -> None:
    model = make_family("qwen2")
    aqn = AQN(model, AQNConfig(schedule="constant", sigma_start=0.2, total_steps=4))
    aqn.step(1)
    ids = tokens(1, 5)
    with torch.no_grad():
        wanted = model(ids).logits
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: model(ids).logits.detach(), range(12)))
    assert all(torch.equal(one, wanted) for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_pass_that_is_compiled_in_part(limit: int) -> None:
    """Beyond its limit of recompilations dynamo runs a function as it stands: hooks among them, so
    that a pass is entered by compiled code and left by plain Python, or the other way round."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=limit), torch.no_grad():
        ids = tokens(2, 7)
        for family in ("qwen2", "qwen3", "qwen3_moe", "gemma3_text", "qwen2"):
            model = wrap(make_family(family), SPEC, quiet=True)
            right = model(ids).logits
            hidden = model.model(ids).last_hidden_state
            compiled = torch.compile(model, backend="aot_eager")
            for _ in range(2):
                assert torch.equal(compiled(ids).logits, right)
                with pytest.raises(MissingRows):
                    model.lm_head(hidden)
    torch._dynamo.reset()
