"""The engines of the feature matrix: what `Server` answers, and beams, grammars, drafts, sleep.

An `LLM`, or an `AsyncLLM`, in a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from tests.engines.vllm_engine import Engine, Record, Server, reload


def _chosen(output: Any) -> Record:
    """Tokens of one answer and their log-probabilities."""
    pairs = zip(output.token_ids, output.logprobs, strict=True)
    return {
        "tokens": list(output.token_ids),
        "decoded": [step[token].logprob for token, step in pairs],
    }


def _parameters(**given: Any) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    if "regex" in given:
        given["structured_outputs"] = StructuredOutputsParams(regex=given.pop("regex"))
    return SamplingParams(**{"logprobs": 0, "ignore_eos": True, **given})


class Features(Server):
    """The questions to an `LLM`."""

    def sample(self, prompts: list[list[int]], **parameters: Any) -> list[list[Record]]:
        """All answers to each prompt."""
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        found = self.llm.generate(requests, _parameters(**parameters), use_tqdm=False)
        return [[_chosen(output) for output in answer.outputs] for answer in found]

    def beams(self, prompts: list[list[int]], width: int, tokens: int) -> list[list[Record]]:
        from vllm.sampling_params import BeamSearchParams

        parameters = BeamSearchParams(beam_width=width, max_tokens=tokens, ignore_eos=True)
        requests: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
        found = self.llm.beam_search(requests, parameters)
        answers = []
        for prompt, output in zip(prompts, found, strict=True):
            beams = []
            for beam in output.sequences:
                new = beam.tokens[len(prompt) :]
                pairs = zip(new, beam.logprobs, strict=True)
                decoded = [step[token].logprob for token, step in pairs]
                beams.append({"tokens": new, "decoded": decoded, "sum": beam.cum_logprob})
            answers.append(beams)
        return answers

    def best(self, prompt: list[int], k: int) -> list[dict[str, float]]:
        """The ``k`` likeliest tokens at each place of a prompt, and the token that is there."""
        parameters = _parameters(max_tokens=1, prompt_logprobs=k)
        (found,) = self.llm.generate([{"prompt_token_ids": prompt}], parameters, use_tqdm=False)
        return [{str(t): v.logprob for t, v in row.items()} for row in found.prompt_logprobs[1:]]

    def asleep(self, prompt: list[int], level: int, scale: float | None) -> Record:
        """Asks while the engine sleeps, changes the scale, and wakes it."""
        from hetero_plugin.vllm import client

        self.llm.sleep(level=level)
        if scale is not None:
            client.set_noise(self.llm, scale=scale)
        self.llm.wake_up(tags=["scheduling"] if level == 0 else None)
        return self.decode([prompt], 12)[0]

    def resident(self) -> list[int]:
        """Bytes of memory of each worker."""
        return self.llm.collective_rpc(_resident)

    def sync(self, path: str, times: int) -> list[int]:
        """Loads a checkpoint ``times`` times, processing the weights each time: bytes after."""
        for _ in range(times):
            self.llm.collective_rpc(reload, args=(path, True))
        return self.resident()


def _resident(worker: Any) -> int:
    import gc

    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class AsyncFeatures:
    """The questions to an `AsyncLLM`, whose loop runs in a thread."""

    def __init__(self, start_method: str, **settings: Any) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.engine = self._run(self._start(start_method, settings))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _start(self, start_method: str, settings: Record) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        config = AsyncEngineArgs(**settings).create_engine_config()
        # vLLM's CPU platform has just set spawn; the process is to be made as the test says.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = start_method
        return AsyncLLM.from_vllm_config(config)

    async def _one(self, name: str, prompt: list[int], parameters: Any) -> Record:
        last: Any = None
        request: Any = {"prompt_token_ids": prompt}
        async for answer in self.engine.generate(request, parameters, request_id=name):
            last = answer
        found = _chosen(last.outputs[0])
        if last.prompt_logprobs is not None:
            found["prompt"] = [next(iter(d.values())).logprob for d in last.prompt_logprobs[1:]]
        return found

    def sample(self, prompts: list[list[int]], **parameters: Any) -> list[Record]:
        """One answer to each prompt, all asked at once."""

        async def work() -> list[Record]:
            names = (f"{os.urandom(8).hex()}-{i}" for i in range(len(prompts)))
            pairs = zip(names, prompts, strict=True)
            made = [self._one(n, p, _parameters(**parameters)) for n, p in pairs]
            return await asyncio.gather(*made)

        return self._run(work())

    def call(self, method: str, arguments: Record) -> Any:
        from hetero_plugin.vllm.client import aio

        return self._run(aio.call(self.engine, method, **arguments))

    def change_while_busy(self, prompts: list[list[int]], scales: list[float]) -> Record:
        """Sets scales while requests run: what was said, and the lengths of the answers."""
        from hetero_plugin.vllm.client import aio

        async def work() -> Record:
            parameters = _parameters(max_tokens=60, temperature=0.0)
            enough = False

            async def again(prompt: list[int]) -> set[int]:
                made: set[int] = set()
                while not enough:  # so that all changes find it busy, however fast it is
                    name = f"busy-{os.urandom(8).hex()}"
                    made.add(len((await self._one(name, prompt, parameters))["tokens"]))
                return made

            running = [asyncio.ensure_future(again(prompt)) for prompt in prompts]
            said = []
            for scale in scales:
                await asyncio.sleep(0.05)
                status = await aio.set_noise(self.engine, scale=scale)
                said.append(status["scales"]["linear"])
            still, enough = sum(not task.done() for task in running), True
            made = set().union(*await asyncio.gather(*running))
            return {"said": said, "running": still, "tokens": sorted(made)}

        return self._run(work())

    def drafts(self) -> dict[str, int]:
        """Tokens that were drafted, and how many of them were accepted."""
        from vllm.v1.metrics.reader import get_metrics_snapshot

        found = {m.name: m for m in get_metrics_snapshot()}
        named = "vllm:spec_decode_num_{}_tokens"
        return {key: int(found[named.format(key)].value) for key in ("draft", "accepted")}  # type: ignore[attr-defined]

    def start_method(self) -> str:
        """How the engine's process was started."""
        manager = self.engine.engine_core.resources.engine_manager
        (process,) = manager.processes
        return process._start_method

    def killed_while_setting(self) -> Record:
        """The engine's process is stopped, asked, and killed while the call waits."""
        from hetero_plugin.vllm.client import aio

        (process,) = self.engine.engine_core.resources.engine_manager.processes
        os.kill(process.pid, signal.SIGSTOP)

        async def work() -> Record:
            call = asyncio.ensure_future(aio.set_noise(self.engine, scale=0.1))
            done, _ = await asyncio.wait({call}, timeout=1.0)
            waited = not done
            os.kill(process.pid, signal.SIGKILL)
            found: Record = {"waited": waited}
            for name in ("during", "after"):
                try:
                    await asyncio.wait_for(asyncio.shield(call), timeout=60)
                except Exception as error:
                    found[name] = f"{type(error).__name__}: {error}"
                call = asyncio.ensure_future(aio.status(self.engine))
            return found

        return self._run(work())


class FeatureEngine(Engine):
    """One `LLM`."""

    server = Features


class AsyncEngine(Engine):
    """One `AsyncLLM`, with the same questions."""

    server = AsyncFeatures
