"""A real vLLM engine in a process of its own, driven over a pipe by the tests.

`serve` starts an engine there and answers JSON requests; `Engine` is the other end.
"""

from __future__ import annotations

import contextlib
import json
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests import forked
from tests.forked import ROOT as ROOT

Record = dict[str, Any]


def make_model(
    path: Path,
    *,
    hidden: int,
    heads: int,
    kv: int,
    inner: int,
    tied: bool,
    dtype: str,
    seed: int = 0,
    vocab: int = 199,  # not a multiple of 64, so that vLLM pads the LM head
) -> Path:
    """Saves a Qwen2 with random weights, sharp enough that error is seen in its log-probs."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=hidden,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=kv,
            intermediate_size=inner,
            vocab_size=vocab,
            max_position_embeddings=512,
            tie_word_embeddings=tied,
            initializer_range=0.1,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.to(getattr(torch, dtype)).save_pretrained(path)
    return path


class Engine:
    """One process for engines. ``engine.ask("logprobs", prompts=[...])`` is answered by `Server`.

    With settings it starts with an engine, without any it waits for `start`.
    """

    server: type[Any]
    """What answers in the process."""

    imported = True
    """Whether the process starts with vLLM imported; see `forked.start`."""

    def __init__(self, log: Path, env: dict[str, str] | None = None, **settings: Any) -> None:
        self.log = log
        log.touch()
        self._process, self._connection = forked.start(
            serve, (self.server, json.dumps(settings)), log, env or {}, imported=self.imported
        )
        self._read()

    def start(self, **settings: Any) -> None:
        """Ends the process's engine and starts another there: a process costs as much."""
        self.ask("start", settings=settings)

    def _read(self) -> Any:
        try:
            answer = json.loads(self._connection.recv())
        except (EOFError, ConnectionError):
            died = f"the engine died:\n{self.log.read_text()[-6000:]}"
            raise EngineError(died) from None
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer["value"]

    def ask(self, action: str, **arguments: Any) -> Any:
        with contextlib.suppress(ConnectionError):  # reading says what became of it
            self._connection.send(json.dumps([action, arguments]))
        return self._read()

    def logprobs(self, *prompts: list[int], **arguments: Any) -> list[Record]:
        return self.ask("logprobs", prompts=prompts, **arguments)

    def rules(self, *scales: float) -> None:
        """Sets the scale of each rule of the spec, at all of its sites."""
        self.ask("rules", scales=scales)

    def set(self, **arguments: Any) -> Record:
        return self.ask("call", method="hetero_noise_set", arguments=arguments)

    def status(self) -> Record:
        return self.ask("call", method="hetero_noise_status", arguments={})

    def close(self) -> None:
        forked.end(self._process, self._connection)


class EngineError(RuntimeError):
    """What the engine's process answered, or its log if it died."""


class Server:
    """The other end of `Engine`, in the engine's process."""

    llm: Any = None

    def __init__(self, **settings: Any) -> None:
        if settings:
            self.start(settings)

    def start(self, settings: Record) -> None:
        """Ends the engine that is there and starts another."""
        from vllm import LLM

        if self.llm is not None:
            import gc

            from vllm.distributed import cleanup_dist_env_and_memory

            self.llm = None
            cleanup_dist_env_and_memory()
            gc.collect()
        self.llm = LLM(
            **{
                "max_model_len": 256,
                "max_num_seqs": 32,
                "max_num_batched_tokens": 256,
                "kv_cache_memory_bytes": 64 << 20,
                "skip_tokenizer_init": True,
                "seed": 0,
                **settings,
            }
        )

    def logprobs(self, prompts: list[list[int]], tokens: int = 4) -> list[Record]:
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            logprobs=1,
            prompt_logprobs=0,
            detokenize=False,
        )
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self.llm.generate(requests, params, use_tqdm=False)
        return [
            {
                "prompt": [next(iter(d.values())).logprob for d in out.prompt_logprobs[1:]],
                "tokens": list(out.outputs[0].token_ids),
                "decoded": [
                    d[t].logprob
                    for t, d in zip(out.outputs[0].token_ids, out.outputs[0].logprobs, strict=True)
                ],
                "cached": out.num_cached_tokens,
            }
            for out in outputs
        ]

    def continuation(self, prompt: list[int], tokens: int) -> Record:
        """Without prompt log-probabilities, which keep vLLM from using its prefix cache."""
        return self.decode([prompt], tokens)[0]

    def decode(self, prompts: list[list[int]], tokens: int) -> list[Record]:
        """Many at once, without prompt log-probabilities."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, logprobs=0, detokenize=False
        )
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        return [_decoded(out) for out in self.llm.generate(requests, params, use_tqdm=False)]

    def pooled(self, prompts: list[list[int]], task: str) -> list[list[float]]:
        """What a pooling engine makes of each prompt."""
        requests: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
        found = self.llm.encode(requests, pooling_task=task, use_tqdm=False)
        return [answer.outputs.data.double().reshape(-1).tolist() for answer in found]

    def attest(self, spec: Record) -> Record:
        """The attestation of the engine under a spec."""
        from hetero_plugin import attestation
        from hetero_plugin.config import NoiseConfig
        from hetero_plugin.vllm.probe import VLLMProbe

        return attestation.attest(VLLMProbe(self.llm, NoiseConfig.parse(spec)))

    def preemptions(self) -> int:
        """How many requests were put off for want of cache blocks so far."""
        return sum(
            int(metric.value)
            for metric in self.llm.get_metrics()
            if metric.name == "vllm:num_preemptions"
        )

    def call(self, method: str, arguments: Record) -> Any:
        from hetero_plugin.vllm import client

        return client.call(self.llm, method, **arguments)

    def rules(self, scales: list[float]) -> None:
        self.llm.collective_rpc(_set_rules, args=(scales,))

    def reload(self, path: str, process: bool) -> int:
        """Loads a checkpoint into the live model, as a weight sync does."""
        return self.llm.collective_rpc(reload, args=(path, process))[0]

    def weights(self, name: str) -> str:
        return self.llm.collective_rpc(_checksum, args=(name,))[0]


def _decoded(out: Any) -> Record:
    chosen = out.outputs[0]
    pairs = zip(chosen.token_ids, chosen.logprobs, strict=True)
    return {
        "tokens": list(chosen.token_ids),
        "decoded": [d[t].logprob for t, d in pairs],
        "cached": out.num_cached_tokens,
    }


def reload(worker: Any, path: str, process: bool) -> int:
    from safetensors.torch import load_file
    from vllm.model_executor.model_loader.utils import process_weights_after_loading

    model = worker.model_runner.get_model()
    loaded = model.load_weights(load_file(Path(path) / "model.safetensors").items())
    if process:
        process_weights_after_loading(model, worker.model_config, worker.device)
    return len(loaded)


def _set_rules(worker: Any, scales: list[float]) -> None:
    state = worker.hetero_noise.state
    for slot in state.slots:
        state._base[slot.index] = scales[slot.rule_index]
    state._write_scales()


def _checksum(worker: Any, name: str) -> str:
    import hashlib

    import torch

    weight = worker.model_runner.get_model().get_parameter(name)
    return hashlib.sha256(
        weight.detach().contiguous().view(torch.uint8).numpy().tobytes()
    ).hexdigest()


def serve(connection: Connection, kind: type[Any], settings: str) -> None:
    """Answers one request after the other: the name of a method of ``kind``, and its arguments."""
    try:
        server = kind(**json.loads(settings))
    except Exception as error:
        connection.send(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        raise
    connection.send(json.dumps({"value": "ready"}))
    while True:
        try:
            action, arguments = json.loads(connection.recv())
        except EOFError:
            return
        try:
            answer = {"value": getattr(server, action)(**arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        connection.send(json.dumps(answer))


Engine.server = Server
