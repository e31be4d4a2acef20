"""The process that makes vLLM configurations with faults in them, and the pipes to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Few sites, because every attestation tries each; two of them parts of a fused layer.
SPEC: dict[str, Any] = {
    "rules": [{"targets": ["*.gate_proj", "*.up_proj", "model.norm"], "scale": 0.05}],
    "aqn": {"schedule": "constant", "sigma_start": 0.02, "targets": ["*.0.*norm", "model.norm"]},
}


class Bench:
    """A process started with this file; ``ask`` calls one of `_Server`'s methods in it."""

    def __init__(self, log: Path, *arguments: str, **env: str) -> None:
        self.log = log
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
        environ.pop("HETERO_NOISE_CONFIG", None)
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
        self._process.stdin.write(json.dumps([action, arguments]) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        if self._process.poll() is None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()


def configure() -> dict[str, str]:
    """What making vLLM's configuration says in each case of `_configurations`."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "log.txt", folder)
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
        answers["forgotten"] = _words(
            lambda: self.make(additional_config={"hetero_noise": SPEC}).create_engine_config()
        )
        answers["cache"] = self._hashes(noisy)
        answers["version"] = self._version(noisy)
        return answers

    def _fresh(self, arguments: dict[str, Any]) -> str:
        import vllm.plugins

        vllm.plugins.plugins_loaded = False
        return _words(lambda: self.make(**arguments).create_engine_config())

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
        return _words(lambda: spec.settle(config))


def _words(call: Any) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _serve() -> None:
    # Plugins print to stdout at any time; answers have a descriptor of their own.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        out.write("@@" + json.dumps(value) + "\n")
        out.flush()

    server = _Configurer(sys.argv[1])
    answer("ready")
    for line in sys.stdin:
        action, arguments = json.loads(line)
        answer(getattr(server, action)(**arguments))


if __name__ == "__main__":
    _serve()
