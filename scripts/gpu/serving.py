"""What the vLLM checks share: starting an engine in this process, asking it, timing it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.gpu.findings import Size

BATCHES = (1, 7, 64)
TIMED = (1, 16, 64, 256)


def start(path: Path, size: Size, rule: dict[str, Any] | None, **settings: Any) -> Any:
    """A vLLM engine in this process; noisy if there is a rule.

    The runner sets VLLM_ENABLE_V1_MULTIPROCESSING=0, so that the profiler sees the kernels.
    """
    from vllm import LLM

    noisy: dict[str, Any] = {}
    if rule is not None:
        noisy = {
            "quantization": "hetero_noise",
            "additional_config": {"hetero_noise": {"rules": [rule], "seed": 21}},
        }
    place: dict[str, Any] = {
        "max_model_len": 1024,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 4096,
        "kv_cache_memory_bytes": 6 << 30,
        "gpu_memory_utilization": 0.25,  # what must be free; the cache is what is set above
        "compilation_config": {
            "cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 64, 128, 256],
            **settings.pop("compilation", {}),
        },
    }
    if size.rehearsal:
        place = {
            "max_model_len": 256,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 256,
            "kv_cache_memory_bytes": 64 << 20,
        }
        settings.pop("compilation", None)
    return LLM(
        str(path),
        **place
        | {
            "dtype": "bfloat16",
            "skip_tokenizer_init": True,
            "enable_prefix_caching": False,
            "seed": 0,
        }
        | noisy
        | settings,
    )


def asked(
    llm: Any, prompts: Sequence[Sequence[int]], tokens: int
) -> list[tuple[np.ndarray, list[int], np.ndarray]]:
    """For each prompt: log-probabilities of its tokens after the first, the generated tokens, and
    theirs; float64."""
    from vllm import SamplingParams

    parameters = SamplingParams(
        temperature=0.0,
        max_tokens=tokens,
        ignore_eos=True,
        detokenize=False,
        prompt_logprobs=0,
        logprobs=0,
        skip_reading_prefix_cache=True,
    )
    requests: Any = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    found = []
    for prompt, answer in zip(
        prompts, llm.generate(requests, parameters, use_tqdm=False), strict=True
    ):
        before = [
            row[token].logprob
            for token, row in zip(prompt[1:], answer.prompt_logprobs[1:], strict=True)
        ]
        output = answer.outputs[0]
        ids = list(output.token_ids)
        after = [row[token].logprob for token, row in zip(ids, output.logprobs, strict=True)]
        found.append((np.array(before), ids, np.array(after)))
    return found


def flat(found: Sequence[tuple[np.ndarray, list[int], np.ndarray]]) -> np.ndarray:
    """The prompts' log-probabilities of `asked`, one after the other."""
    return np.concatenate([one[0] for one in found])


def rescored(
    llm: Any,
    prompts: Sequence[Sequence[int]],
    found: Sequence[tuple[np.ndarray, list[int], np.ndarray]],
) -> np.ndarray:
    """The generated tokens' log-probabilities as a prompt's, which takes no decoding graph."""
    whole = [list(p) + one[1] for p, one in zip(prompts, found, strict=True)]
    again = asked(llm, whole, 1)
    return np.concatenate([new[0][-len(one[1]) :] for new, one in zip(again, found, strict=True)])


def generated(found: Sequence[tuple[np.ndarray, list[int], np.ndarray]]) -> np.ndarray:
    return np.concatenate([one[2] for one in found])


def timings(llm: Any, size: Size) -> dict[str, float]:
    """Median seconds: ``decode N`` of 64 tokens of N sequences, ``prefill`` of 16 x 512 tokens."""
    from vllm import SamplingParams

    def run(count: int, length: int, tokens: int) -> None:
        parameters = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )
        requests: Any = [
            {"prompt_token_ids": [3 + (i * 131 + j * 7) % 190 for j in range(length)]}
            for i in range(count)
        ]
        llm.generate(requests, parameters, use_tqdm=False)

    work = {f"decode {n}": (n, 4, 64) for n in TIMED} | {"prefill": (16, 512, 1)}
    if size.rehearsal:
        work = {"decode 1": (1, 4, 8), "prefill": (2, 64, 1)}
    found = {}
    for name, arguments in work.items():
        run(*arguments)
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            run(*arguments)
            seconds.append(time.perf_counter() - began)
        found[name] = statistics.median(seconds)
    return found


def launches(llm: Any, steps: int = 20) -> dict[str, float]:
    """Device kernels a decoding step of one sequence: all, the noise's, and copies.

    Counted as the difference between a long and a short generation, so that what a request
    costs once falls out.
    """
    from torch.profiler import ProfilerActivity, profile
    from vllm import SamplingParams

    ours = {kernel.__name__ for kernel in noise_kernels()}

    def counted(tokens: int) -> dict[str, int]:
        parameters = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )
        request: Any = [{"prompt_token_ids": [5, 6, 7, 8]}]
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            llm.generate(request, parameters, use_tqdm=False)
        names = list(_device_kernels(seen))
        return {
            "all": len(names),
            "noise": sum(name in ours for name in names),
            "copies": sum("memcpy" in n.lower() or "copy" in n.lower() for n in names),
        }

    counted(2)
    few, many = counted(5), counted(5 + steps)
    return {key: (many[key] - few[key]) / steps for key in few}


def _device_kernels(seen: Any) -> Iterator[str]:
    from torch.autograd import DeviceType

    for event in seen.events():
        if event.device_type == DeviceType.CUDA:
            yield event.name


def noise_kernels() -> list[Any]:
    """The Triton kernels of the plugin."""
    from triton.runtime import JITFunction

    from hetero_plugin.kernels.cuda import fused as cuda_fused
    from hetero_plugin.kernels.cuda import perturb as cuda

    found = {
        id(value): value
        for module in (cuda, cuda_fused)
        for value in vars(module).values()
        if isinstance(value, JITFunction)
    }
    return list(found.values())


def variants() -> int:
    """Compiled variants of `noise_kernels` in this process."""
    return sum(len(each[0]) for one in noise_kernels() for each in one.device_caches.values())
