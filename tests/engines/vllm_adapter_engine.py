"""The engine process of the LoRA and quantisation tests: attests, runs adapters, breaks them."""

from __future__ import annotations

from typing import Any

from tests.engines.vllm_engine import Engine, Record, Server


class AdapterServer(Server):
    def _adapter(self, path: str | None) -> Any:
        from vllm.lora.request import LoRARequest

        return None if path is None else LoRARequest("adapter", 1, path)

    def adapted(self, prompts: list[list[int]], adapter: str) -> list[list[float]]:
        """Log-probabilities of prompts' tokens, through an adapter."""
        from vllm import SamplingParams

        self.llm.reset_prefix_cache()
        params = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False, ignore_eos=True
        )
        requests: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self.llm.generate(
            requests, params, use_tqdm=False, lora_request=self._adapter(adapter)
        )
        return [
            [d[t].logprob for t, d in zip(p[1:], (out.prompt_logprobs or [])[1:], strict=True)]
            for p, out in zip(prompts, outputs, strict=True)
        ]

    def attest(self, spec: Record, adapter: str | None = None) -> str:
        """What the attestation refuses for; empty if it passes."""
        from hetero_plugin import attestation
        from hetero_plugin.config import NoiseConfig
        from hetero_plugin.vllm.probe import VLLMProbe

        config = NoiseConfig.parse(spec)
        probe = VLLMProbe(self.llm, config, adapter=self._adapter(adapter))
        return "; ".join(attestation.problems(attestation.attest(probe), config.fingerprint))

    def bypass(self, layer: str) -> None:
        """From now on a LoRA layer multiplies its base layer's weight itself, past the method."""
        self.llm.collective_rpc(_bypass, args=(layer,))

    def mend(self, layer: str) -> None:
        self.llm.collective_rpc(_mend, args=(layer,))

    def unmapped(self, how: str) -> str:
        """What attaching noise says of a model with a layer that no map names; ends its use."""
        return self.llm.collective_rpc(_unmapped, args=(how,))[0]

    def methods(self) -> dict[str, int]:
        """How many layers have each class of method."""
        return self.llm.collective_rpc(_methods)[0]


def _bypass(worker: Any, layer: str) -> None:
    import torch.nn.functional as F

    model = worker.model_runner.get_model()
    # A compiled graph would go on with the layer as it was. (On CPU vLLM compiles none with LoRA.)
    model.was_not_compiled = model.model.do_not_compile
    model.model.do_not_compile = True
    wrapper = model.get_submodule(layer)

    def apply(x: Any, bias: Any = None) -> Any:
        return wrapper._apply_lora_to_output(x, F.linear(x, wrapper.base_layer.weight, bias))

    wrapper.apply = apply


def _mend(worker: Any, layer: str) -> None:
    model = worker.model_runner.get_model()
    del model.get_submodule(layer).apply
    model.model.do_not_compile = model.was_not_compiled


def _unmapped(worker: Any, how: str) -> str:
    import copy

    from hetero_plugin.config import ConfigError, NoiseConfig
    from hetero_plugin.state import NoiseState
    from hetero_plugin.vllm.install import make_noisy

    model = worker.model_runner.get_model()
    attention = model.model.layers[1].self_attn
    projection = getattr(attention.o_proj, "base_layer", attention.o_proj)
    attention.gated_out_proj = copy.copy(projection)
    sites = worker.hetero_noise.state.sites
    config = NoiseConfig.parse({"scale": 0.05, "targets": ["linear"], "unmapped": how})
    try:
        make_noisy(model, NoiseState(config, sites, max_rows=256), sites, {"model_type": "qwen2"})
    except ConfigError as error:
        return str(error)
    return ""


def _methods(worker: Any) -> dict[str, int]:
    from collections import Counter

    modules = worker.model_runner.get_model().modules()
    methods = [getattr(module, "quant_method", None) for module in modules]
    found = Counter(f"{type(m).__module__}.{type(m).__name__}" for m in methods if m is not None)
    return dict(found)


class AdapterEngine(Engine):
    """An `Engine` that answers what `AdapterServer` does."""

    server = AdapterServer
