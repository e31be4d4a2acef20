"""Checks of vLLM on a GPU: attestation, graphs, runners, sleep, speed. One engine a check."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from scripts.gpu import models, serving
from scripts.gpu.findings import Report, Size, rms
from scripts.gpu.hf import EVERY, LINEAR, spec


def clean(size: Size, report: Report, kind: str = "qwen2") -> None:
    """A plain engine without the plugin: what the noisy ones are compared with."""
    from hetero_plugin.vllm.probe import prompt_logprobs

    began = time.perf_counter()
    llm = serving.start(models.folder(kind, size), size, None)
    report.note("start, s", time.perf_counter() - began)
    probe, again = prompt_logprobs(llm), prompt_logprobs(llm)
    report.hold("a plain engine repeats itself", np.array_equal(probe, again), f"{probe.size}")
    kept: dict[str, Any] = {"probe": probe}
    if kind == "qwen2":
        kept["prompts"] = serving.flat(serving.asked(llm, models.prompts(size, _most(size)), 1))
        for name, seconds in serving.timings(llm, size).items():
            kept[f"seconds {name}"] = np.array(seconds)
            report.note(f"{name}, ms", 1e3 * seconds)
        if not size.rehearsal:
            kept["launches"] = np.array(serving.launches(llm)["all"])
            report.note("kernels a step", float(kept["launches"]))
    size.keep(f"clean-{kind}", **kept)


def _most(size: Size) -> int:
    return 8 if size.rehearsal else max(serving.BATCHES)


def attested(llm: Any, rule: dict[str, Any], report: Report, reference: Any = None) -> None:
    """Attests an engine, against a plain one where there is its output."""
    from hetero_plugin.attestation import attest, problems
    from hetero_plugin.config import NoiseConfig
    from hetero_plugin.vllm.probe import VLLMProbe

    record = attest(VLLMProbe(llm, NoiseConfig.parse(spec(rule)), reference=reference))
    wrong = problems(record)
    how = f"against {record.get('clean_is')}, {record.get('engine')}, {record.get('kernel')}"
    report.hold(
        f"attested {how}",
        not wrong,
        "; ".join(wrong)[:800]
        or f"{record['seen']} of {record['of']} sites, {record['seconds']} s",
    )


def stepped(llm: Any, size: Size, report: Report, name: str) -> None:
    """A step changed between replays, at each batch size; decoding beside prefill."""
    from hetero_plugin.vllm import client

    batches = (1, 7) if size.rehearsal else serving.BATCHES
    for batch in batches:
        prompts = models.prompts(size, batch)
        seen = []
        for step in (1, 2, 1):
            client.step(llm, step)
            seen.append(serving.asked(llm, prompts, 6))
        same = all(
            np.array_equal(a[0], b[0]) and a[1] == b[1] and np.array_equal(a[2], b[2])
            for a, b in zip(seen[0], seen[2], strict=True)
        )
        other = rms(serving.flat(seen[0]) - serving.flat(seen[1]))
        report.hold(f"batch {batch}: a step's noise comes back", same, "steps 1, 2, 1")
        report.hold(f"batch {batch}: another step has another", other > 0, f"rms {other:.4f}")
        gap = rms(serving.generated(seen[2]) - serving.rescored(llm, prompts, seen[2]))
        report.hold(
            f"batch {batch}: a token decoded has the noise that it has in a prompt",
            gap <= other / 3,
            f"rms {gap:.4f}; another step {other:.4f}",
            {"gap": gap, "other": other},
        )
    client.step(llm, 1)
    prompts = models.prompts(size, _most(size))
    first = serving.flat(serving.asked(llm, prompts, 1))
    client.step(llm, 2)
    second = serving.flat(serving.asked(llm, prompts, 1))
    size.keep(name, first=first, second=second)
    beside = size.kept("vllm-linear")
    if name != "vllm-linear" and beside is not None:
        gap, other = rms(first - beside["first"]), rms(first - second)
        report.hold(
            "the noise of the engine with every graph",
            gap <= other / 3,
            f"rms {gap:.4f}; another step {other:.4f}",
            {"gap": gap, "other": other},
        )


def linear(size: Size, report: Report) -> None:
    """The default engine under the linear rule: everything that one engine can be asked."""
    began = time.perf_counter()
    llm = serving.start(models.folder("qwen2", size), size, LINEAR)
    report.note("start, s", time.perf_counter() - began)
    reference = size.kept("clean-qwen2")
    attested(llm, LINEAR, report, None if reference is None else reference["probe"])
    stepped(llm, size, report, "vllm-linear")
    odd_lengths(llm, size, report)
    if reference is not None:
        for name, seconds in serving.timings(llm, size).items():
            ratio = float(reference[f"seconds {name}"]) / seconds
            report.note(f"{name}, ms", 1e3 * seconds)
            limit = 0.85 if name == "prefill" else 0.90
            report.goal(f"{name}: throughput ÷ clean", ratio, limit, least=True)
    if not size.rehearsal:
        counted = serving.launches(llm)
        for key, value in counted.items():
            report.note(f"launches a step, {key}", value)
        if reference is not None and "launches" in reference:
            more = counted["all"] - float(reference["launches"])
            report.goal("kernels a step beside clean's and the noise's", more - counted["noise"], 2)
        report.hold("noise kernels run in each step", counted["noise"] >= 1, f"{counted['noise']}")


def odd_lengths(llm: Any, size: Size, report: Report) -> None:
    """Prompts of odd lengths: finite scores, the same again, and nothing compiled meanwhile."""
    from hetero_plugin.vllm import client

    lengths = (3, 17, 63) if size.rehearsal else (3, 5, 17, 63, 127, 129, 255, 511, 777)
    vocab = models.config("qwen2", size).vocab_size
    prompts = [[3 + (j * 31 + n) % (vocab - 3) for j in range(n)] for n in lengths]
    before = client.status(llm)["compiled"]
    kernels = serving.variants()
    found = [serving.asked(llm, [prompt], 1)[0][0] for prompt in prompts]
    again = [serving.asked(llm, [prompt], 1)[0][0] for prompt in prompts]
    finite = all(bool(np.isfinite(one).all()) for one in found)
    same = all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    report.hold("prompts of odd lengths are scored", finite and same, f"lengths {lengths}")
    after = client.status(llm)["compiled"]
    report.hold("the compiler stood still", before == after, f"{before} then {after}")
    if not size.rehearsal:
        report.goal("Triton variants compiled while serving", serving.variants() - kernels, 0)


def again(size: Size, report: Report) -> None:
    """A second start from the compile cache: the numbers of the first, bit for bit."""
    began = time.perf_counter()
    llm = serving.start(models.folder("qwen2", size), size, LINEAR)
    report.note("second start, s", time.perf_counter() - began)
    from hetero_plugin.vllm import client

    first = size.kept("vllm-linear")
    client.step(llm, 1)
    found = serving.flat(serving.asked(llm, models.prompts(size, _most(size)), 1))
    report.note("compiler", client.status(llm)["compiled"])
    if first is None:
        report.hold("there is a first start to compare with", False, "vllm-linear kept nothing")
        return
    differ = int((found != first["first"]).sum())
    report.hold("the first start's numbers", differ == 0, f"{differ} of {found.size} differ")


def variant(size: Size, report: Report, name: str, **settings: Any) -> None:
    """Another way of running the same engine: eager, piecewise graphs, the other model runner."""
    llm = serving.start(models.folder("qwen2", size), size, LINEAR, **settings)
    runners = llm.collective_rpc(_runner)
    report.note("model runner", runners[0])
    stepped(llm, size, report, name)


def _runner(worker: Any) -> str:
    kind = type(worker.model_runner)
    return f"{kind.__module__}.{kind.__qualname__}"


def eager(size: Size, report: Report) -> None:
    """No compiler and no graphs."""
    variant(size, report, "vllm-eager", enforce_eager=True)


def piecewise(size: Size, report: Report) -> None:
    """Graphs between the attention layers alone."""
    variant(size, report, "vllm-piecewise", compilation={"cudagraph_mode": "PIECEWISE"})


def other_runner(size: Size, report: Report) -> None:
    """The model runner that is not the default for Qwen2; the runner module sets which."""
    report.note("VLLM_USE_V2_MODEL_RUNNER", os.environ.get("VLLM_USE_V2_MODEL_RUNNER"))
    variant(size, report, "vllm-other-runner")


def sleep(size: Size, report: Report) -> None:
    """Sleep level 2, wake, new weights: bit for bit what the weights give without sleeping."""
    from hetero_plugin.vllm import client

    old, new = models.folder("qwen2", size), models.folder("qwen2", size, seed=1)
    llm = serving.start(
        old, size, LINEAR, **({} if size.rehearsal else {"enable_sleep_mode": True})
    )
    prompts = models.prompts(size, 4)

    def scored() -> np.ndarray:
        return serving.flat(serving.asked(llm, prompts, 1))

    with_old = scored()
    llm.collective_rpc(_load, args=(str(new),))
    with_new = scored()
    report.hold("other weights, other numbers", not np.array_equal(with_old, with_new), "a sync")
    llm.collective_rpc(_load, args=(str(old),))
    report.hold("and back", np.array_equal(with_old, scored()), "a sync of the old weights")
    if not size.rehearsal:  # vLLM's CPU worker does not sleep
        llm.sleep(level=2)
        llm.wake_up(tags=["weights"])
        llm.collective_rpc(_load, args=(str(new),))
        llm.wake_up(tags=["kv_cache"])
        found = scored()
        differ = int((found != with_new).sum())
        report.hold("asleep at level 2 and loaded anew", differ == 0, f"{differ} differ")
    status = client.status(llm)
    report.hold("still noisy", bool(status["noisy"]) and status["active"] > 0, "its status")
    client.set_noise(llm, enabled=False)
    report.hold("and noise can be seen", not np.array_equal(scored(), with_new), "against disabled")


def _load(worker: Any, path: str) -> None:
    """A weight sync as trainers make it: names and tensors into the live model."""
    from pathlib import Path

    from safetensors.torch import load_file

    model = worker.model_runner.get_model()
    for file in sorted(Path(path).glob("*.safetensors")):
        model.load_weights(load_file(file).items())


def families(size: Size, report: Report, kind: str) -> None:
    """Another architecture, every kind of site."""
    rule = {**EVERY, "targets": ["linear"]} if kind == "qwen3_moe" else EVERY
    settings = {"enforce_eager": True} if size.rehearsal else {}
    llm = serving.start(models.folder(kind, size), size, rule, **settings)
    kept = None if size.rehearsal else size.kept(f"clean-{kind}")
    attested(llm, rule, report, None if kept is None else kept["probe"])


def fp8(size: Size, report: Report) -> None:
    """A checkpoint in FP8 under the noise."""
    llm = serving.start(models.fp8_folder(size), size, LINEAR)
    attested(llm, LINEAR, report)


def beside_hf(size: Size, report: Report) -> None:
    """vLLM's noisy log-probabilities beside Hugging Face's on the same device."""
    import torch

    from hetero_plugin import set_step, wrap

    plain, noisy = size.kept("clean-qwen2"), size.kept("vllm-linear")
    if plain is None or noisy is None:
        report.hold(
            "there is something to compare", False, "vllm-clean or vllm-linear kept nothing"
        )
        return
    model = models.build("qwen2", size)
    prompts = models.prompts(size, _most(size))

    @torch.no_grad()
    def scored() -> np.ndarray:
        values = []
        for prompt in prompts:
            ids = torch.tensor([prompt], device=size.device)
            scores = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
            values.append(scores.gather(-1, ids[0, 1:, None])[:, 0].double().cpu().numpy())
        return np.concatenate(values)

    floor = rms(scored() - plain["prompts"])
    wrap(model, spec(LINEAR), quiet=True)
    for step, name in ((1, "first"), (2, "second")):
        set_step(model, step)
        gap, effect = rms(scored() - noisy[name]), rms(noisy[name] - plain["prompts"])
        report.hold(
            f"step {step}: one noise in both engines",
            gap <= max(4 * floor, 1e-4) and gap <= effect / 3,
            f"rms {gap:.4f}; clean engines {floor:.4f}, the noise {effect:.4f}",
            {"gap": gap, "floor": floor, "effect": effect},
        )
