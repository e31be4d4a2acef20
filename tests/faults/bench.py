"""The process that holds a vLLM engine with faults in it, and the other end of its pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.faults import worker
from tests.faults.worker import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
# Few sites, because every attestation tries each; two of them parts of a fused layer.
SPEC: dict[str, Any] = {
    "rules": [
        {"targets": ["*.gate_proj", "*.up_proj", "model.norm"], "scale": 0.05},
        {"targets": ["*.1.*.o_proj"], "error": "nvfp4", "point": "weight"},
    ],
    "aqn": {"schedule": "constant", "sigma_start": 0.02, "targets": ["*.0.*norm", "model.norm"]},
}


OUT = "model.layers.1.self_attn.o_proj"


class Bench:
    """A process started with this file; ``ask`` calls one of `_Server`'s methods in it."""

    def __init__(self, log: Path, *arguments: str, **env: str) -> None:
        self.log = log
        environ = {k: v for k, v in os.environ.items() if k != VARIABLE}
        environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("a"),
            text=True,
            env=environ,
        )
        self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("@@"):
                return json.loads(line[2:])
        raise RuntimeError(f"the engine's process died:\n{self.log.read_text()[-6000:]}")

    def ask(self, action: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        print(json.dumps([action, arguments]), file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        try:
            self._process.communicate(timeout=60)  # closes its input, which is its sign to stop
        except subprocess.TimeoutExpired:
            self._process.kill()


def configure() -> dict[str, str]:
    """What making vLLM's configuration says in each case of `_configurations`."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "log.txt", "configure", folder)
        try:
            return bench.ask("configurations")
        finally:
            bench.close()


# ---- the engine's process


class _Configurer:
    """Makes configurations, starts nothing."""

    def __init__(self, folder: str) -> None:
        from tests.engines.vllm_engine import make_model

        self.folder = Path(folder)
        shape = {"hidden": 64, "heads": 2, "kv": 1, "inner": 96, "tied": False}
        self.model = make_model(self.folder / "model", dtype="float32", **shape)  # type: ignore[arg-type]

    def make(self, **arguments: Any) -> Any:
        from vllm.engine.arg_utils import EngineArgs

        return EngineArgs(model=str(self.model), skip_tokenizer_init=True, **arguments)

    def configurations(self) -> dict[str, str]:
        answers = {}
        noisy = {"quantization": "hetero_noise", "additional_config": {"hetero_noise": SPEC}}
        answers["not_installed"] = self._not_installed(noisy)
        os.environ["VLLM_PLUGINS"] = "another_plugin"
        answers["excluded"] = self._fresh(noisy)
        del os.environ["VLLM_PLUGINS"]
        import vllm.plugins

        vllm.plugins.plugins_loaded = False
        vllm.plugins.load_general_plugins()
        answers["forgotten"] = worker.words(
            lambda: self.make(additional_config={"hetero_noise": SPEC}).create_engine_config()
        )
        answers["cache"] = self._hashes(noisy)
        answers["version"] = self._version(noisy)
        return answers

    def _fresh(self, arguments: dict[str, Any]) -> str:
        import vllm.plugins

        vllm.plugins.plugins_loaded = False
        return worker.words(lambda: self.make(**arguments).create_engine_config())

    def _not_installed(self, arguments: dict[str, Any]) -> str:
        import importlib.metadata

        original = importlib.metadata.entry_points

        def others(**selection: Any) -> Any:
            return [p for p in original(**selection) if not p.value.startswith("hetero_plugin")]

        importlib.metadata.entry_points = others  # type: ignore[assignment]
        try:
            return self._fresh(arguments)
        finally:
            importlib.metadata.entry_points = original

    def _hashes(self, noisy: dict[str, Any]) -> str:
        from hetero_plugin.vllm import spec

        made = [self.make(**noisy).create_engine_config()]
        other = {"hetero_noise": {**SPEC, "seed": 1}}
        made.append(self.make(**{**noisy, "additional_config": other}).create_engine_config())
        made.append(self.make(**noisy).create_engine_config())
        made[2].additional_config[spec.RESOLVED]["version"] = "0.0.9"
        made.append(self.make().create_engine_config())
        again = self.make(**noisy).create_engine_config()
        hashes = [config.compute_hash() for config in made]
        assert again.compute_hash() == hashes[0]
        return f"{len(set(hashes))} different hashes"

    def _version(self, noisy: dict[str, Any]) -> str:
        from hetero_plugin.vllm import spec

        config = self.make(**noisy).create_engine_config()
        config.additional_config[spec.RESOLVED]["version"] = "0.0.9"
        return worker.words(lambda: spec.settle(config))


class _Server(_Configurer):
    """A compiled engine, its core a spawned process that lacks the environment variable."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        from vllm import LLM
        from vllm.engine.arg_utils import EngineArgs
        from vllm.plugins import load_general_plugins

        load_general_plugins()
        os.environ[VARIABLE] = json.dumps(SPEC)
        configured = EngineArgs.create_engine_config

        def then_forget(self: Any, *args: Any, **kwargs: Any) -> Any:
            made = configured(self, *args, **kwargs)
            os.environ.pop(VARIABLE, None)  # before any process starts
            return made

        EngineArgs.create_engine_config = then_forget  # type: ignore[method-assign]
        self.arguments = {
            "model": str(self.model),
            "dtype": "float32",
            "max_model_len": 256,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 256,
            "kv_cache_memory_bytes": 64 << 20,
            "skip_tokenizer_init": True,
            "seed": 0,
        }
        self.llm = LLM(quantization="hetero_noise", **self.arguments)
        EngineArgs.create_engine_config = configured  # type: ignore[method-assign]

    def attest(self) -> str:
        """What the attestation refuses for; empty if it passes."""
        return self._attest(self.llm)

    def _attest(self, llm: Any) -> str:
        from hetero_plugin import attestation
        from hetero_plugin.config import NoiseConfig
        from hetero_plugin.vllm.probe import VLLMProbe

        config = NoiseConfig.parse(SPEC)
        record = attestation.attest(VLLMProbe(llm, config))
        return "; ".join(attestation.problems(record, config.fingerprint))

    def attest_plain_engine(self) -> str:
        from vllm import LLM

        return self._attest(LLM(enforce_eager=True, **self.arguments))

    def environment(self) -> list[str | None]:
        return self.llm.collective_rpc(worker.environment)

    def break_site(self, name: str) -> int:
        return self.llm.collective_rpc(worker.set_slot, args=(name, 0))[0]

    def mend_site(self, name: str, slot: int) -> int:
        return self.llm.collective_rpc(worker.set_slot, args=(name, slot))[0]

    def detach_table(self) -> None:
        self.llm.collective_rpc(worker.detach_table)

    def attach_table(self) -> None:
        self.llm.collective_rpc(worker.attach_table)

    def alike_rows(self) -> None:
        self.llm.collective_rpc(worker.alike_rows)

    def mend_rows(self) -> None:
        self.llm.collective_rpc(worker.mend_rows)

    def alike_sites(self) -> list[list[int]]:
        return self.llm.collective_rpc(worker.alike_sites)[0]

    def mend_sites(self, keys: list[list[int]]) -> None:
        self.llm.collective_rpc(worker.mend_sites, args=(keys,))

    def break_norm(self, name: str) -> None:
        self.llm.collective_rpc(worker.break_norm, args=(name,))

    def mend_norm(self, name: str) -> None:
        self.llm.collective_rpc(worker.mend_norm, args=(name,))

    def step(self, n: int) -> None:
        from hetero_plugin.vllm import client

        client.step(self.llm, n)

    def logprobs(self) -> list[float]:
        from hetero_plugin.vllm.probe import prompt_logprobs

        self.llm.reset_prefix_cache()
        return prompt_logprobs(self.llm).tolist()

    def logprobs_clean(self) -> list[float]:
        from hetero_plugin.vllm import client

        client.set_noise(self.llm, enabled=False)
        client.aqn(self.llm, off=True)
        try:
            return self.logprobs()
        finally:
            client.set_noise(self.llm, enabled=True)

    def reload(self) -> None:
        self.llm.collective_rpc(worker.reload, args=(str(self.model),))

    def sync_unseen(self) -> str:
        """What the attestation refuses for after another checkpoint, of which nothing was told."""
        from tests.engines.vllm_engine import make_model

        shape = {"hidden": 64, "heads": 2, "kv": 1, "inner": 96, "tied": False, "seed": 1}
        other = make_model(self.folder / "other", dtype="float32", **shape)  # type: ignore[arg-type]
        self.llm.collective_rpc(worker.look_away)
        try:
            self.llm.collective_rpc(worker.reload, args=(str(other),))
            return self.attest()
        finally:
            self.llm.collective_rpc(worker.look_again)
            self.reload()

    def sync_past_loading(self) -> list[bool]:
        """Whether answers follow weights that a worker call wrote, with its own hands, and back."""
        before = self.logprobs()
        self.llm.collective_rpc(worker.write_weight, args=(OUT, 2.0))
        doubled = self.logprobs()
        self.llm.collective_rpc(worker.write_weight, args=(OUT, 0.5))
        return [doubled != before, self.logprobs() == before, self.attest() == ""]

    def prefix(self) -> dict[str, Any]:
        from vllm import SamplingParams

        from hetero_plugin.vllm import client

        prompt = [3 + (7 * i) % 190 for i in range(200)]
        parameters = SamplingParams(
            temperature=0.0, max_tokens=6, ignore_eos=True, logprobs=0, detokenize=False
        )

        def answer() -> tuple[int, list[Any]]:
            out = self.llm.generate([{"prompt_token_ids": prompt}], parameters, use_tqdm=False)[0]
            chosen = out.outputs[0]
            steps = zip(chosen.token_ids, chosen.logprobs, strict=True)
            return out.num_cached_tokens, [[token, step[token].logprob] for token, step in steps]

        client.set_noise(self.llm, scale=0.05)
        answer()
        warm, _ = answer()
        client.set_noise(self.llm, scale=0.3)
        after, found = answer()
        self.llm.reset_prefix_cache()
        _, fresh = answer()
        client.set_noise(self.llm, reset=True)
        return {"warm": warm, "after": after, "answers_equal": found == fresh}

    def no_positions(self) -> str:
        return self.llm.collective_rpc(worker.no_positions)[0]

    def kill_while_setting(self) -> str:
        from hetero_plugin.vllm import client

        (pid,) = self.llm.collective_rpc(worker.die_at_next_setting)
        assert pid != os.getpid()
        return worker.words(lambda: client.set_noise(self.llm, scale=0.1))


def _serve() -> None:
    # Plugins print to stdout at any time; answers have a descriptor of their own.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        print("@@" + json.dumps(value), file=out, flush=True)

    server = (_Configurer if sys.argv[1] == "configure" else _Server)(sys.argv[2])
    answer("ready")
    for line in sys.stdin:
        action, arguments = json.loads(line)
        answer(getattr(server, action)(**arguments))


if __name__ == "__main__":
    _serve()
