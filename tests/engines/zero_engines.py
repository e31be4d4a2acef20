"""Engines of one family, one after the other in one process: what each says of the same prompts.

One process, because starting one costs more than the engine of a tiny model.
"""

from __future__ import annotations

import gc
from multiprocessing.connection import Connection
from typing import Any


def rows(settings: dict[str, Any], prompts: list[list[int]], spec: dict[str, Any] | None) -> Any:
    """Log-probabilities of the prompts' tokens, one list after the other.

    Of an engine without the plugin all at once and one by one; of ours noisy, at scale 0, and with
    AQN's offsets alone.

    Args:
        settings: of `vllm.LLM`.
        prompts: token ids.
        spec: its noise; None: an engine without the plugin.
    """
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    from hetero_plugin.vllm import client

    noise: dict[str, Any] = {}
    if spec is not None:
        noise = {"quantization": "hetero_noise", "additional_config": {"hetero_noise": spec}}
    engine = LLM(**settings, **noise)
    params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False, temperature=0.0)

    def ask(prompts: list[list[int]]) -> list[float]:
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = engine.generate(requests, params, use_tqdm=False)
        places = [place for out in outputs for place in out.prompt_logprobs[1:]]
        return [next(iter(place.values())).logprob for place in places]

    answer = {}
    if spec is None:
        answer["alone"] = [value for prompt in prompts for value in ask([prompt])]
    else:
        answer["noisy"] = ask(prompts)
        client.call(engine, "hetero_noise_set", scale=0.0)
    answer["together"] = ask(prompts)
    if spec is not None and "aqn" in spec:
        client.call(engine, "hetero_noise_aqn", step=1)
        answer["shifted"] = ask(prompts)
    engine = None  # before the next one starts
    cleanup_dist_env_and_memory()
    gc.collect()
    return answer


def answer(connection: Connection, work: dict[str, Any]) -> None:
    """Sends the `rows` of each engine, in their order."""
    for engine in work["engines"]:
        settings = work["common"] | engine["settings"]
        connection.send(rows(settings, work["prompts"], engine["spec"]))
