"""The attestation probe of a running vLLM engine: its compiled path, through worker calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hetero_plugin.attestation.attest import ProbedSite
from hetero_plugin.attestation.probes import (
    LENGTH,
    comparable_sites,
    expected_sites,
    probe_prompts,
)
from hetero_plugin.config import NoiseConfig
from hetero_plugin.sites import aqn_sites, sites_from_config

if TYPE_CHECKING:
    from vllm import LLM


class VLLMProbe:
    """Runs fixed prompts through an engine and reads the log-probabilities of their tokens.

    Every rank is asked, and ranks that disagree raise. Prompts are never served from the prefix
    cache, whose keys and values belong to other scales.

    Args:
        llm: an engine with ``quantization="hetero_noise"``.
        config: the specification the engine is meant to run.
        reference: output of a plain engine without the plugin (``prompt_logprobs``); without it,
            "clean" means noise disabled in this engine.
    """

    def __init__(
        self, llm: LLM, config: NoiseConfig, *, reference: np.ndarray | None = None
    ) -> None:
        self.llm = llm
        self.config = config
        self.reference = reference
        self._aqn_step: int | None = None  # in force before, and again afterwards
        model_config = llm.llm_engine.vllm_config.model_config
        self.engine = "vllm-eager" if model_config.enforce_eager else "vllm-compiled"
        self.hf_config = model_config.hf_text_config.to_dict()
        self.dtype = str(model_config.dtype).removeprefix("torch.")

    def expected(self) -> Sequence[ProbedSite]:
        return expected_sites(self.config, self.hf_config, "rollout")

    def describe(self) -> dict[str, Any]:
        ranks = self.llm.collective_rpc("hetero_noise_status")
        noisy = [rank for rank in ranks if rank.get("noisy")]
        self._aqn_step = ranks[0].get("aqn_step")
        sites = self._call("hetero_noise_sites") if len(noisy) == len(ranks) else []
        parallel = self.llm.llm_engine.vllm_config.parallel_config
        return {
            "fingerprint": self.config.fingerprint,
            "phase": "rollout",
            "clean_is": "noise disabled" if self.reference is None else "an engine without it",
            "dtype": self.dtype,
            "kernel": ", ".join(sorted({str(rank.get("kernel")) for rank in ranks})),
            "tensor_parallel": parallel.tensor_parallel_size,
            # A rank without the plugin has no fingerprint, and the check of fingerprints fails.
            "processes": [
                {key: rank.get(key) for key in ("rank", "pid", "fingerprint", "device")}
                for rank in ranks
            ],
            "sites": comparable_sites(
                [site["name"] for site in sites], self.expected(), self.config, self.hf_config
            ),
        }

    def aqn_expected(self) -> Sequence[str]:
        sites = sites_from_config(self.hf_config)
        return [site.name for site in aqn_sites(self.config, sites)]

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
            return self.reference
        self._set(enabled=False)
        self._aqn(off=True)
        try:
            return self.output()
        finally:
            self._set(enabled=True)

    def output(self) -> np.ndarray:
        self.llm.reset_prefix_cache()
        return prompt_logprobs(self.llm)

    def _set(self, **arguments: Any) -> None:
        if self.config.rules:
            self._call("hetero_noise_set", **arguments)

    def _aqn(self, **arguments: Any) -> None:
        if self.config.aqn is not None:
            self._call("hetero_noise_aqn", **arguments)

    def _call(self, method: str, **arguments: Any) -> Any:
        from hetero_plugin.vllm import client

        return client.call(self.llm, method, **arguments)


def prompt_logprobs(llm: LLM, prompts: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """Log-probabilities of prompts' tokens, then of two generated ones: float64 [k].

    Args:
        llm: any engine, with or without the plugin.
        prompts: token ids; default: the fixed prompts of attestation.

    Generated tokens take the decoding path, which has graphs of its own.
    """
    from vllm import SamplingParams

    if prompts is None:
        model_config = llm.llm_engine.vllm_config.model_config
        length = max(2, min(LENGTH, model_config.max_model_len - 2))
        vocab = int(model_config.hf_text_config.vocab_size)
        prompts = probe_prompts(vocab, length)
    parameters = SamplingParams(
        temperature=0.0,
        max_tokens=2,
        ignore_eos=True,
        detokenize=False,
        prompt_logprobs=0,
        logprobs=0,
        skip_reading_prefix_cache=True,
    )
    requests: Any = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    answers = llm.generate(requests, parameters, use_tqdm=False)
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
