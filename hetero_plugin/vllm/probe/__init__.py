"""How a vLLM engine is attested: one probe, two ways of speaking to an engine.

`keys` is its counterpart in a worker: what a layer draws from, which no output can show.
"""

from hetero_plugin.vllm.probe.engine import (
    AsyncVLLMProbe,
    EngineProbe,
    VLLMProbe,
    attest_async,
    prompt_logprobs,
)

__all__ = ["AsyncVLLMProbe", "EngineProbe", "VLLMProbe", "attest_async", "prompt_logprobs"]
