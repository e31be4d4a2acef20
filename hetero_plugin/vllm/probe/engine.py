"""The attestation probe of a running vLLM engine: its compiled path, through worker calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hetero_plugin import random
from hetero_plugin.attestation import ProbedSite, attest
from hetero_plugin.attestation.expected import (
    LENGTH,
    comparable_sites,
    expected_sites,
    is_deterministic,
    probe_prompts,
)
from hetero_plugin.config import NoiseConfig
from hetero_plugin.sites import Site, aqn_sites
from hetero_plugin.vllm import client, spec
from hetero_plugin.vllm.probe.formats import of_ranks
from hetero_plugin.vllm.probe.transports import OfAsyncLLM, OfLLM, Prompts, Transport

if TYPE_CHECKING:
    from vllm import LLM, PoolingRequestOutput, RequestOutput, SamplingParams
    from vllm.config import ModelConfig, VllmConfig
    from vllm.engine.protocol import EngineClient
    from vllm.lora.request import LoRARequest
    from vllm.tasks import PoolingTask


class EngineProbe:
    """Runs fixed prompts through an engine and reads the log-probabilities of their tokens.

    Every rank is asked, and ranks that disagree raise. Prompts are never served from the prefix
    cache, whose keys and values belong to other scales.

    Args:
        transport: how the engine is spoken to.
        vllm_config: the engine's.
        config: the specification the engine is meant to run.
        reference: output of a plain engine without the plugin (``prompt_logprobs``); without it,
            "clean" means noise disabled in this engine.
    """

    def __init__(
        self,
        transport: Transport,
        vllm_config: VllmConfig,
        config: NoiseConfig,
        reference: np.ndarray | None = None,
    ) -> None:
        self._transport = transport
        self.config = config
        self.reference = reference
        self._aqn_step: int | None = None  # in force before, and again afterwards
        self._forbidden: np.ndarray | None = None
        self._stale: list[str] = []
        self._model_config = vllm_config.model_config
        self._budget = int(vllm_config.scheduler_config.max_num_batched_tokens)  # tokens a pass
        self._tensor_parallel = vllm_config.parallel_config.tensor_parallel_size
        self.engine = "vllm-eager" if self._model_config.enforce_eager else "vllm-compiled"
        self.hf_config = self._model_config.hf_text_config.to_dict()
        self._vllm_config = vllm_config
        self._pooling = getattr(self._model_config, "runner_type", None) == "pooling"
        self.dtype = str(self._model_config.dtype).removeprefix("torch.")

    @property
    def sites(self) -> tuple[Site, ...]:
        """Those of the model that the engine was to load."""
        return spec.model_sites(self._vllm_config)

    def measured(self) -> tuple[dict[str, Any], list[tuple[str, bool, str]]]:
        """Whether rows and sites have keys of their own, on every rank, and formats are formats.

        The sizes of other errors are not seen here.
        """
        if not self.config.rules:
            return {}, []
        prompt = _prompts(self._model_config)[0][: self._budget]
        self._answered([prompt], tokens=1)
        n = len(prompt)
        expected = random.row_keys(torch.tensor(prompt), torch.arange(n)).tolist()
        rows, sites, formats, held = [], [], [], 0
        for rank, found in enumerate(self._transport.ranks("hetero_noise_keys", rows=n)):
            right = sum(a == b for a, b in zip(found["rows"], expected, strict=True))
            if right < n:
                rows.append(f"rank {rank}: {right} of {n} rows have the key of their token")
            sites += [f"rank {rank}: {pair}" for pair in found["shared"]]
            held += found["held"]
            formats.append([(name, passed, detail) for name, passed, detail in found["formats"]])
        checks = [
            ("rows are known by token and position", not rows, "; ".join(rows) or f"{n} rows"),
            ("sites differ", not sites, "; ".join(sites[:8]) or "each has a key of its own"),
            *of_ranks(formats),
        ]
        if held:
            stale = list(dict.fromkeys(self._stale + self._stale_weights()))
            words = "; ".join(stale[:8]) or f"{held} layers"
            checks.append(("weights with error are of the present weights", not stale, words))
        return {}, checks

    def _stale_weights(self) -> list[str]:
        """Layers that compute with the error of another weight than their present one."""
        ranks = enumerate(self._transport.ranks("hetero_noise_keys", weights=True))
        return [f"rank {rank}: {name}" for rank, found in ranks for name in found["stale"]]

    def deterministic(self) -> bool:
        return is_deterministic(self.config)

    def expected(self) -> Sequence[ProbedSite]:
        return expected_sites(self.config, self.hf_config, "rollout", sites=self.sites)

    def describe(self) -> dict[str, Any]:
        ranks = self._transport.ranks("hetero_noise_status")
        if self.config.rules and all(rank.get("noisy") for rank in ranks):
            self._stale = self._stale_weights()  # before scales are set, which makes them anew
        noisy = [rank for rank in ranks if rank.get("noisy")]
        self._aqn_step = ranks[0].get("aqn_step")
        sites = self._call("hetero_noise_sites") if len(noisy) == len(ranks) else []
        return {
            "fingerprint": self.config.fingerprint,
            "phase": "rollout",
            "clean_is": "noise disabled" if self.reference is None else "an engine without it",
            "dtype": self.dtype,
            "kernel": ", ".join(sorted({str(rank.get("kernel")) for rank in ranks})),
            "tensor_parallel": self._tensor_parallel,
            # A rank without the plugin has no fingerprint, and the check of fingerprints fails.
            "processes": [
                {key: rank.get(key) for key in ("rank", "pid", "fingerprint", "device")}
                for rank in ranks
            ],
            "sites": comparable_sites(
                [site["name"] for site in sites],
                self.expected(),
                self.config,
                self.hf_config,
                self.sites,
            ),
        }

    def aqn_expected(self) -> Sequence[str]:
        return [site.name for site in aqn_sites(self.config, self.sites)]

    def off(self) -> None:
        self._set(scale=0.0)
        self._aqn(off=True)

    def only(self, sites: Sequence[str], scale: float) -> None:
        self.off()
        for site in sites:
            self._set(scale=scale, site=site)

    def only_aqn(self, norms: Sequence[str], sigma: float) -> None:
        self.off()
        self._aqn(sites=list(norms), sigma=sigma)

    def configured(self) -> None:
        self._set(reset=True)
        if self._aqn_step is None:
            self._aqn(off=True)
        else:
            self._aqn(step=self._aqn_step)

    def clean(self) -> np.ndarray:
        if self.reference is not None:
            return self._allowed(self.reference)
        self._aqn(off=True)
        return self.gated()

    def gated(self) -> np.ndarray:
        # Not by `_set`, which leaves a spec of AQN alone untouched.
        self._call("hetero_noise_set", enabled=False)
        try:
            return self.output()
        finally:
            self._call("hetero_noise_set", enabled=True)

    def output(self) -> np.ndarray:
        self._transport.forget()
        return self._allowed(self._answered(_prompts(self._model_config)))

    def _answered(self, prompts: Prompts, tokens: int = 2) -> np.ndarray:
        """What the engine answers to prompts, as float64 [k]: log-probabilities, or vectors."""
        if self._pooling:
            task = _pooling_task(self._transport.tasks())
            return _vectors(self._transport.pooled(prompts, task))
        return _logprobs(prompts, self._transport.generated(prompts, _parameters(tokens)))

    def _allowed(self, values: np.ndarray) -> np.ndarray:
        """Without the tokens that this engine never gives: verl forbids those of no tokenizer.

        Their log-probability is minus infinity under any setting. Which they are is settled by the
        first output; one that differs is handed on whole, and is evidence of nothing.
        """
        forbidden = np.isneginf(values)
        if self._forbidden is None:
            self._forbidden = forbidden
        same = forbidden.shape == self._forbidden.shape and bool(
            (forbidden == self._forbidden).all()
        )
        return values[~forbidden] if same else values

    def _set(self, **arguments: Any) -> None:
        if self.config.rules:
            self._call("hetero_noise_set", **arguments)

    def _aqn(self, **arguments: Any) -> None:
        if self.config.aqn is not None:
            self._call("hetero_noise_aqn", **arguments)

    def _call(self, method: str, **arguments: Any) -> Any:
        return client.agreed(method, self._transport.ranks(method, **arguments))


class VLLMProbe(EngineProbe):
    """The probe of an ``LLM``.

    Args:
        llm: an engine with ``quantization="hetero_noise"``.
        config: the specification the engine is meant to run.
        reference: see `EngineProbe`.
        adapter: the prompts go through this LoRA adapter.
    """

    def __init__(
        self,
        llm: LLM,
        config: NoiseConfig,
        *,
        reference: np.ndarray | None = None,
        adapter: LoRARequest | None = None,
    ) -> None:
        super().__init__(OfLLM(llm, adapter), llm.llm_engine.vllm_config, config, reference)


class AsyncVLLMProbe(EngineProbe):
    """The probe of an ``AsyncLLM``, as in a server and in verl's rollout.

    For a thread of its own, as attestation waits for each answer (`attest_async`). Requests that
    run meanwhile would be answered under the scales of a test, so there should be none.

    Args:
        engine: an ``AsyncLLM`` with ``quantization="hetero_noise"``.
        config: the specification the engine is meant to run.
        loop: the event loop that the engine lives on.
        adapter: the prompts go through this LoRA adapter.
    """

    def __init__(
        self,
        engine: EngineClient,
        config: NoiseConfig,
        loop: asyncio.AbstractEventLoop,
        *,
        adapter: LoRARequest | None = None,
    ) -> None:
        super().__init__(OfAsyncLLM(engine, loop, adapter), engine.vllm_config, config)


async def attest_async(
    engine: EngineClient,
    config: NoiseConfig,
    *,
    adapter: LoRARequest | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Attests an ``AsyncLLM`` that no requests run in; see `hetero_plugin.attestation.attest`.

    Args:
        engine: with ``quantization="hetero_noise"``.
        config: the specification that it is meant to run.
        adapter: the prompts go through this LoRA adapter.
        options: of ``attest``.
    """
    probe = AsyncVLLMProbe(engine, config, asyncio.get_running_loop(), adapter=adapter)
    return await asyncio.to_thread(attest, probe, **options)


def prompt_logprobs(
    llm: LLM, prompts: Prompts | None = None, adapter: LoRARequest | None = None
) -> np.ndarray:
    """Log-probabilities of prompts' tokens, then of two generated ones: float64 [k].

    Args:
        llm: any engine, with or without the plugin.
        prompts: token ids; default: the fixed prompts of attestation.
        adapter: a LoRA request, for all of them.

    Generated tokens take the decoding path, which has graphs of its own.
    """
    if prompts is None:
        prompts = _prompts(llm.llm_engine.vllm_config.model_config)
    return _logprobs(prompts, OfLLM(llm, adapter).generated(prompts, _parameters()))


_POOLING_TASKS: tuple[PoolingTask, ...] = ("embed", "classify", "token_embed", "token_classify")


def _pooling_task(supported: Sequence[str]) -> PoolingTask:
    """What a pooling engine is asked for: the first of its tasks that gives numbers."""
    for task in _POOLING_TASKS:
        if task in supported:
            return task
    raise RuntimeError(
        f"this pooling engine does {', '.join(supported)}, and can be attested where it does one "
        f"of {', '.join(_POOLING_TASKS)}"
    )


def _vectors(answers: Sequence[PoolingRequestOutput]) -> np.ndarray:
    """Everything that a pooling engine answered, as float64 [k]."""
    return np.concatenate(
        [np.asarray(answer.outputs.data, dtype=np.float64).reshape(-1) for answer in answers]
    )


def _prompts(model_config: ModelConfig) -> list[list[int]]:
    length = max(2, min(LENGTH, model_config.max_model_len - 2))
    return probe_prompts(int(model_config.hf_text_config.vocab_size), length)


def _parameters(tokens: int = 2) -> SamplingParams:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0.0,
        max_tokens=tokens,
        ignore_eos=True,
        detokenize=False,
        prompt_logprobs=0,
        logprobs=0,
        skip_reading_prefix_cache=True,
    )


def _logprobs(prompts: Prompts, answers: Sequence[RequestOutput]) -> np.ndarray:
    values: list[float] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.prompt_logprobs is not None
        for token, row in zip(prompt[1:], answer.prompt_logprobs[1:], strict=True):
            assert row is not None
            values.append(row[token].logprob)
        output = answer.outputs[0]
        assert output.logprobs is not None
        for token, step in zip(output.token_ids, output.logprobs, strict=True):
            assert step is not None
            values.append(step[token].logprob)
    return np.asarray(values, dtype=np.float64)
