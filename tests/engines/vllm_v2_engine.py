"""An engine process on vLLM's model runner V2, which GPUs get by default, on a CPU.

vLLM's CPU build has a V2 runner, whose input preparation and sampling are Triton kernels: they run
in Triton's interpreter. It takes Triton for unusable where no backend is called "cpu", and PyPI's
Triton has none; so one stands in while vLLM looks (left there, Inductor would try to use it). All
of this is done here, in the engine's process, and nothing of it in the package.

What runs is the runner's logic: no CUDA graphs, no generated Triton code, no grammar masks (the
interpreter lacks a dtype for those).
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.engines.vllm_engine import Engine, Record, Server, reload

LOOKS = "vllm.triton_utils.importing"
V2 = "vllm.v1.worker.gpu.model_runner.GPUModelRunner"
ENV = {
    "VLLM_USE_V2_MODEL_RUNNER": "1",
    "TRITON_INTERPRET": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def missing() -> str:
    """Why V2 can't run here; empty if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed, in whose interpreter V2's kernels run"
    found = importlib.util.find_spec("vllm")
    (root,) = (found and found.submodule_search_locations) or ("",)
    if not (Path(root) / "v1" / "worker" / "cpu" / "model_runner.py").is_file():
        return "this vLLM has no model runner V2 for CPUs (v1/worker/cpu/model_runner.py)"
    return ""


class V2Engine(Engine):
    """A process for engines on V2, without one at first."""

    imported = False  # Triton reads its variable when it is imported

    def __init__(self, log: Path, env: dict[str, str] | None = None) -> None:
        super().__init__(log, ENV | (env or {}))


class V2Server(Server):
    """The other end: what `Server` answers, of an engine that is known to run on V2."""

    def __init__(self) -> None:
        sys.meta_path.insert(0, _Finder())

    def start(self, settings: Record) -> None:
        """As `Server.start`.

        Raises:
            RuntimeError: it does not run on V2.
        """
        super().start(settings)
        found = self.runner()
        if V2 not in found:
            raise RuntimeError(f"asked for vLLM's model runner V2, and it runs {found[0]}")

    def runner(self) -> list[str]:
        """The class of the worker's model runner and its bases, by their full names."""
        return self.llm.collective_rpc(_runner)[0]

    def scored(
        self, beside: list[int], prompt: list[int], words: list[list[int]], start: int
    ) -> list[list[float]]:
        """Log-probabilities of given words after a prompt's tokens from ``start`` on.

        V2 alone has it. The prompt goes after another, ``beside``, in the same passes.
        """
        from vllm import SamplingParams

        plain = SamplingParams(temperature=0.0, max_tokens=1, detokenize=False)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            detokenize=False,
            prompt_logprob_token_ids=words,
            prompt_logprob_start=start,
        )
        requests: Any = [{"prompt_token_ids": one} for one in (beside, prompt)]
        _, found = self.llm.generate(requests, [plain, params], use_tqdm=False)
        return found.prompt_token_id_logprobs.tolist()

    def changed_halfway(self, prompt: list[int], tokens: int, after: int, scale: float) -> Record:
        """One request, whose scale is set once ``after`` of its tokens are there.

        Returns:
            Its tokens, their log-probabilities, and ``said``: how many there were at the change.
        """
        from vllm import SamplingParams

        from hetero_plugin.vllm import client

        params = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, logprobs=0, detokenize=False
        )
        engine, said, last = self.llm.llm_engine, None, None
        engine.add_request("halfway", {"prompt_token_ids": prompt}, params)
        while engine.has_unfinished_requests():
            last = next(iter(engine.step()), last)
            done = 0 if last is None else len(last.outputs[0].token_ids)
            if said is None and done >= after:
                said = done
                client.set_noise(self.llm, scale=scale)
        assert last is not None
        chosen = last.outputs[0]
        pairs = zip(chosen.token_ids, chosen.logprobs, strict=True)
        return {
            "tokens": list(chosen.token_ids),
            "decoded": [step[token].logprob for token, step in pairs],
            "said": said,
        }

    def slept(self, path: str) -> None:
        """Sleep of level 2, the loss of all weights that goes with it, new ones, and waking."""
        self.llm.sleep(level=2)
        self.llm.collective_rpc(_lose_weights)
        self.llm.collective_rpc(reload, args=(path, True))
        self.llm.wake_up()


def _runner(worker: Any) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(worker.model_runner).__mro__]


def _lose_weights(worker: Any) -> None:
    """What the memory of a sleeping GPU worker holds afterwards is anything; here, no number."""
    import torch

    with torch.no_grad():
        for parameter in worker.model_runner.get_model().parameters():
            parameter.fill_(float("nan"))


class _StandIn(importlib.abc.Loader):
    """Loads vLLM's search for Triton, with a backend called "cpu" as long as it takes."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        from triton.backends import backends

        driver = types.SimpleNamespace(is_active=lambda: True)
        backends["cpu"] = types.SimpleNamespace(driver=driver, compiler=None)  # type: ignore[assignment]
        try:
            self.loader.exec_module(module)
        finally:
            del backends["cpu"]


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != LOOKS:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        if found is not None and found.loader is not None:
            found.loader = _StandIn(found.loader)
        return found


V2Engine.server = V2Server
