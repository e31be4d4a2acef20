"""Checks of the folder `hf` on a GPU: exactness, rows, compiler, graphs, training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hetero_plugin import disabled, random, set_step, state_of, wrap
from hetero_plugin.attestation import attest, problems
from hetero_plugin.attestation.expected import probe_prompts
from hetero_plugin.hf.probe import HFProbe
from hetero_plugin.operator import perturb
from scripts.gpu import models
from scripts.gpu.findings import Report, Size

LINEAR: dict[str, Any] = {"targets": ["linear"], "exclude": ["lm_head"], "scale": 0.05}
EVERYTHING = ["linear", "norm", "activation", "attention"]
EVERY: dict[str, Any] = {"targets": EVERYTHING, "scale": 0.05}


def spec(rule: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"rules": [{**rule, **changes}], "seed": 21}


def ids_of(size: Size, batch: int, length: int) -> Tensor:
    vocab = models.config("qwen2", size).vocab_size
    places = torch.arange(batch * length).reshape(batch, length)
    return (3 + places * 7919 % (vocab - 3)).to(size.device)


@torch.no_grad()
def logits(model: Any, ids: Tensor, **arguments: Any) -> Tensor:
    found: Tensor = model(input_ids=ids, use_cache=False, **arguments).logits
    return found.float()


def exact(size: Size, report: Report) -> None:
    """The 1.5B shape in bfloat16: attested, and clean bit for bit at scale 0."""
    ids = ids_of(size, 2, 96)
    model = models.build("qwen2", size)
    clean = logits(model, ids)
    # The reference is the model before it was wrapped.
    probe = HFProbe.wrapping(model, spec(EVERY))
    record = attest(probe)
    found = problems(record)
    report.hold(
        f"each site alone perturbs the output ({record.get('kernel')})",
        not found,
        "; ".join(found)[:600]
        or f"{record['seen']} of {record['of']} sites, {record['seconds']} s",
    )
    noisy = logits(model, ids)
    state_of(model).set_scale(0.0)
    off = logits(model, ids)
    report.hold(
        "scale 0 is the model before wrap",
        torch.equal(off, clean),
        f"{int((off != clean).sum())} of {clean.numel()} logits differ",
    )
    state_of(model).reset_scales()
    with disabled(model):
        report.hold("so is disabled()", torch.equal(logits(model, ids), clean), "all kinds")
    again = logits(model, ids)
    report.hold("noise repeats", torch.equal(noisy, again), "one spec, one step, one input")
    report.hold("noise is there", not torch.equal(noisy, clean), f"rms {rms_of(noisy, clean):.4f}")


def rms_of(a: Tensor, b: Tensor) -> float:
    return float((a - b).double().square().mean().sqrt())


def rows(size: Size, report: Report) -> None:
    """A sequence alone, in a batch, and padded on the left: one noise.

    A GPU multiplies other shapes in another order, so the clean model's own difference is the
    yardstick, and that of another step's noise is what a wrong row key would give.
    """
    ids = ids_of(size, 4, 64)
    model = models.build("qwen2", size)
    pad = torch.zeros(4, 9, dtype=ids.dtype, device=ids.device)
    padded = torch.cat((pad, ids), 1)
    mask = torch.cat((pad, torch.ones_like(ids)), 1)

    def three() -> tuple[Tensor, Tensor, Tensor]:
        return (
            logits(model, ids[2:3]),
            logits(model, ids)[2:3],
            logits(model, padded, attention_mask=mask)[2:3, 9:],
        )

    clean = three()
    wrap(model, spec(LINEAR), quiet=True)
    noisy = three()
    set_step(model, 5)
    other = rms_of(logits(model, ids[2:3]), noisy[0])
    for index, name in ((1, "in a batch of 4"), (2, "padded on the left")):
        gap, floor = rms_of(noisy[index], noisy[0]), rms_of(clean[index], clean[0])
        report.hold(
            f"{name}: the noise of the sequence alone",
            gap <= max(4 * floor, 1e-4) and gap <= other / 3,
            f"rms {gap:.5f}; clean {floor:.5f}, another step {other:.5f}",
            {"noisy": gap, "clean": floor, "other": other},
        )


def compiled(size: Size, report: Report) -> None:
    """torch.compile: attested, near the eager model, and nothing is compiled for a new scale."""
    from torch._dynamo.utils import counters

    layers = 1 if size.rehearsal else 4
    # The prompts of attestation, so that their shape is the only one that is compiled.
    vocab = models.config("qwen2", size).vocab_size
    ids = torch.tensor(probe_prompts(vocab), device=size.device)
    model = models.build("qwen2", size, layers=layers)
    clean = logits(model, ids)
    wrap(model, spec(LINEAR), quiet=True)
    eager = logits(model, ids)
    forward = torch.compile(model)
    found = logits(forward, ids)
    gap, effect = rms_of(found, eager), rms_of(eager, clean)
    report.hold(
        "compiled is near eager",
        gap <= effect / 3,
        f"rms {gap:.5f}, of the noise {effect:.5f}",
        {"gap": gap, "effect": effect},
    )
    before = int(counters["stats"]["unique_graphs"])
    for step in (1, 2):
        set_step(model, step)
        logits(forward, ids)
    state_of(model).set_scale(0.0)
    logits(forward, ids)
    state_of(model).reset_scales()
    after = int(counters["stats"]["unique_graphs"])
    report.hold("no graph for a step or a scale", before == after, f"{before} then {after} graphs")
    record = attest(HFProbe(model, forward=forward))
    wrong = problems(record)
    report.hold(
        "attested through the compiler",
        not wrong,
        "; ".join(wrong)[:600] or f"{record['seen']} of {record['of']} sites",
    )


def graph(size: Size, report: Report) -> None:
    """One captured graph, replayed with the step and the scale changed between."""
    model = models.build("qwen2", size)
    ids = ids_of(size, 1, 64)

    def work() -> Tensor:
        return logits(model, ids)  # without a mask, which would be looked at on the host

    # A GEMM in a graph may be another one than outside, in bfloat16: so graph beside graph.
    eager, clean = work(), captured(work)()
    floor = rms_of(eager, clean)
    wrap(model, spec(LINEAR), quiet=True)
    replay = captured(work)
    seen = []
    for step in (1, 2, 1):
        set_step(model, step)
        seen.append(replay())
        gap, effect = rms_of(seen[-1], work()), rms_of(seen[-1], clean)
        report.hold(
            f"replayed at step {step} it is the eager model",
            gap <= max(2 * floor, effect / 100) and gap <= effect / 5,
            f"rms {gap:.6f}; clean {floor:.6f}, the noise {effect:.4f}",
        )
    report.hold("a step's noise comes back", torch.equal(seen[0], seen[2]), "steps 1, 2, 1")
    report.hold("another step has another", not torch.equal(seen[0], seen[1]), "steps 1, 2")
    state_of(model).set_scale(0.0)
    off = replay()
    report.hold(
        "scale 0 in the graph is the clean model's graph, bit for bit",
        torch.equal(off, clean),
        f"{int((off != clean).sum())} of {off.numel()} logits differ",
    )


def captured(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """``work`` as a CUDA graph: a function that replays it and copies what it gave."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        static = work()

    def replay() -> Tensor:
        graph.replay()
        return static.clone()

    return replay


def on_cpu(size: Size, report: Report) -> None:
    """The GPU's noise beside the CPU's: the same integers, float32 values within a bound."""
    clock = torch.tensor([random.clock_key(21, 3)])
    key = random.site_key("model.layers.0.mlp", "output")
    keys = random.row_keys(torch.arange(64) * 977, torch.arange(64) * 31)
    streams = {"normal": random.normal_bits, "rounding": random.rounding_bits}
    for name, draw in streams.items():
        here, there = (
            draw(clock.to(d), torch.tensor([key], device=d), keys.to(d), 60, 4096).cpu()
            for d in ("cpu", size.device)
        )
        report.hold(
            f"{name} integers are the same on both",
            torch.equal(here, there),
            f"{int((here != there).sum())} of {here.numel()} differ",
        )
    # The kernels don't hand their integers out; another integer is another normal.
    segments = torch.tensor([[4096, key, 60, 0]])
    normals = []
    for device in ("cpu", size.device):
        x = torch.zeros(64, 4096, device=device)
        one = torch.ones(1, device=device)
        arguments = (x, keys.to(device), clock.to(device), one, segments)
        normals.append(perturb(*arguments, "absolute_gaussian", False).cpu())
    apart = float((normals[0] - normals[1]).abs().max())
    report.hold("both kernels draw the same normals", apart <= 1e-5, f"at most {apart:.1e} apart")
    torch.backends.cuda.matmul.allow_tf32 = False
    tiny = Size(True, size.out)
    ids = ids_of(tiny, 2, 48)
    found: dict[str, list[Tensor]] = {}
    for device in ("cpu", size.device):
        model = models.build("qwen2", tiny, torch.float32, device="cpu").to(device)
        values = [logits(model, ids.to(device))]
        wrap(model, spec(EVERY, rounding="nearest"), quiet=True)
        for step in (1, 2):
            set_step(model, step)
            values.append(logits(model, ids.to(device)))
        found[device] = [value.cpu() for value in values]
    ours, theirs = found["cpu"], found[size.device]
    floor, effect = rms_of(ours[0], theirs[0]), rms_of(ours[1], ours[2])
    for step in (1, 2):
        gap = rms_of(ours[step], theirs[step])
        # Normals differ by some units in the last place: logarithm and sine are other polynomials.
        report.hold(
            f"a float32 model at step {step}: logits as on the CPU",
            gap <= max(10 * floor, 1e-5) and gap <= effect / 1000,
            f"rms {gap:.2e}; clean {floor:.2e}, steps apart {effect:.4f}",
            {"noisy": gap, "clean": floor, "other": effect},
        )
