"""Checks of training on a GPU: gradients under checkpointing, FSDP2, what noise costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hetero_plugin import set_step, unwrap, wrap
from scripts.gpu import models
from scripts.gpu.findings import Report, Size
from scripts.gpu.hf import LINEAR, ids_of, spec


def gradients(model: Any, ids: Tensor, checkpointing: bool) -> Tensor:
    """All gradients of one step's loss, as one float32 vector."""
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
    model.train()
    model.zero_grad(set_to_none=True)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    model.eval()
    return torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])


def apart(a: Tensor, b: Tensor) -> float:
    """Size of the difference over the size of the first."""
    return float((a - b).norm() / a.norm())


def checkpointing(size: Size, report: Report) -> None:
    """Recomputed activations have the noise that they had; error on gradients included."""
    layers = None if size.rehearsal else 8
    ids = ids_of(size, 2, 96 if size.rehearsal else 512)
    model = models.build("qwen2", size, layers=layers)
    # Backward passes on a GPU add up in an order of their own: the clean model says how far.
    floor = apart(gradients(model, ids, False), gradients(model, ids, True))
    clean = gradients(model, ids, False)
    wrap(model, spec(LINEAR, direction="both"), quiet=True)
    set_step(model, 1)
    stored, recomputed = gradients(model, ids, False), gradients(model, ids, True)
    gap, effect = apart(stored, recomputed), apart(clean, stored)
    set_step(model, 2)
    other = apart(stored, gradients(model, ids, False))
    report.hold(
        "gradients with checkpointing are those without",
        gap <= max(4 * floor, 1e-5) and gap <= other / 10,
        f"apart by {gap:.2e}; clean {floor:.2e}, another step {other:.3f}",
        {"noisy": gap, "clean": floor, "other": other},
    )
    report.hold("noise reaches the gradients", effect > 10 * floor, f"apart by {effect:.3f}")


def cost(size: Size, report: Report) -> None:
    """Time and peak memory of the forward pass and of a training step, noisy over clean."""
    ids = ids_of(size, 1 if size.rehearsal else 4, 64 if size.rehearsal else 512)
    model = models.build("qwen2", size)

    def forward() -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)

    def step() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad()

    found: dict[str, dict[str, tuple[float, int]]] = {}
    ways: dict[str, Any] = {
        "clean": None,
        "linear": spec(LINEAR, direction="both"),
        "every kind": spec({**LINEAR, "targets": ["linear", "norm", "activation", "attention"]}),
        "scale 0": spec(LINEAR, direction="both", scale=0.0),
    }
    for name, rules in ways.items():
        if rules is not None:
            wrap(model, rules, quiet=True)
        found[name] = {"forward": measured(forward, size), "step": measured(step, size)}
        if rules is not None:
            unwrap(model)
    for work, time_goal in (("forward", 1.10), ("step", 1.15)):
        base_time, base_peak = found["clean"][work]
        report.note(f"clean {work}, ms", 1e3 * base_time)
        report.note(f"clean {work}, peak MiB", base_peak / 2**20)
        for name in list(ways)[1:]:
            seconds, peak = found[name][work]
            ratio = seconds / base_time
            if name == "linear":
                report.goal(f"{work}, {name}: time ÷ clean", ratio, time_goal)
            else:
                report.note(f"{work}, {name}: time ÷ clean", ratio)
            if not size.rehearsal:  # a CPU's allocator does not say
                report.goal(f"{work}, {name}: peak memory ÷ clean", peak / base_peak, 1.02)
    report.hold("everything was timed", len(found) == len(ways), f"{len(found)} ways")


def measured(work: Callable[[], None], size: Size) -> tuple[float, int]:
    """Median seconds of some runs, and peak bytes of CUDA memory."""
    cuda = not size.rehearsal
    wait = torch.cuda.synchronize if cuda else lambda: None
    work()
    work()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(3 if size.rehearsal else 9):
        wait()
        began = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), torch.cuda.max_memory_allocated() if cuda else 0


def fsdp2(size: Size, report: Report) -> None:
    """Two optimiser steps as verl makes them: FSDP2, packed sequences, checkpointing."""
    import os
    import tempfile

    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    with tempfile.TemporaryDirectory() as folder:
        store = distributed.FileStore(f"{folder}/store", 1)
        backend = "gloo" if size.rehearsal else "nccl"
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            mesh = init_device_mesh(size.device, (1,))
            losses = {}
            for name in ("clean", "noisy", "noisy again"):
                model = models.build("qwen2", size, layers=None if size.rehearsal else 8)
                if name != "clean":
                    wrap(model, spec(LINEAR, direction="both"), quiet=True)
                model.gradient_checkpointing_enable({"use_reentrant": False})
                for layer in model.model.layers:
                    fully_shard(layer, mesh=mesh)
                fully_shard(model, mesh=mesh)
                losses[name] = two_steps(model, size, noisy=name != "clean")
                del model
        finally:
            distributed.destroy_process_group()
    finite = all(abs(loss) < 1e4 for each in losses.values() for loss in each)
    report.hold("two steps were made", finite and len(losses["noisy"]) == 2, f"losses {losses}")
    report.hold("the first loss is noisy", losses["noisy"][0] != losses["clean"][0], "FSDP2")
    close = abs(losses["noisy"][0] - losses["noisy again"][0]) <= 1e-6
    report.hold("a second run has the same noise", close, "the first loss, before any update")


def two_steps(model: Any, size: Size, noisy: bool) -> list[float]:
    """Losses of two steps over three sequences packed into one row."""
    ids = ids_of(size, 1, 96)
    places = torch.cat([torch.arange(n) for n in (40, 25, 31)])[None].to(ids.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    model.train()
    for step in (1, 2):
        if noisy:
            set_step(model, step)
        loss = model(input_ids=ids, position_ids=places, labels=ids, use_cache=False).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    return losses
