"""`vllm serve` in processes of its own, and the questions that tests ask it over HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engines.vllm_engine import ROOT, make_model

SCALE = 0.05
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
KEY = "a-key-of-this-test"
PROMPT = [3 + (j * 11 + j * j) % 190 for j in range(40)]


@dataclass
class Server:
    url: str
    log: Path
    model: Path

    def answer(
        self,
        path: str,
        body: bytes | None = None,
        key: str | None = KEY,
        content_type: str = "application/json",
    ) -> tuple[int, str]:
        """Status code and text, whatever they are."""
        headers = {"Content-Type": content_type} if body is not None else {}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        code, text = self.answer(path, json.dumps(body).encode())
        assert code == 200, text
        return json.loads(text)

    def get(self, path: str) -> str:
        code, text = self.answer(path)
        assert code == 200, text
        return text

    def refusal(self, body: dict[str, Any]) -> tuple[int, str]:
        """Status code and reason of a POST to the noise endpoint that has to fail."""
        return self.answer("/v1/hetero_noise", json.dumps(body).encode())

    def complete(self, tokens: int = 12) -> tuple[list[float], list[str]]:
        """Log-probabilities and tokens of a greedy completion."""
        body = {
            "model": str(self.model),
            "prompt": PROMPT,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "logprobs": 0,
            "return_tokens_as_token_ids": True,
        }
        found = self.post("/v1/completions", body)["choices"][0]["logprobs"]
        return found["token_logprobs"], found["tokens"]

    def call(self, method: str, **arguments: Any) -> Any:
        return self.post("/collective_rpc", {"method": method, "kwargs": arguments})["results"][0]


@contextmanager
def served(path: Path) -> Iterator[Server]:
    """A noisy server of a small random model, everything of it below ``path``."""
    from hetero_plugin.miniature.model import build_tokenizer

    model = make_model(
        path / "model", hidden=64, heads=2, kv=1, inner=160, tied=True, dtype="float32"
    )
    build_tokenizer().save_pretrained(model)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("vllm"), "serve", model, "--dtype=float32"]
    command += ["--max-model-len=128", "--max-num-batched-tokens=128", "--max-num-seqs=8"]
    command += ["--kv-cache-memory-bytes=67108864", "--host=127.0.0.1", f"--port={port}"]
    command += [f"--hetero-noise-scale={SCALE}", f"--chat-template={TEMPLATE}"]
    command += ["--hetero-noise-attest", f"--api-key={KEY}"]
    command += ["--middleware=tests.engines.cancelling.CancelOnDisconnect"]
    env = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    env |= {
        "VLLM_PLUGINS": "hetero_noise,hetero_noise_http",
        "VLLM_SERVER_DEV_MODE": "1",
        "PYTHONPATH": str(ROOT),  # for the middleware
    }
    log = path / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen([str(w) for w in command], stdout=out, stderr=out, env=env)
    made = Server(f"http://127.0.0.1:{port}", log, model)
    try:
        _wait(made, process)
        yield made
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(server.url + "/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(f"the server did not start:\n{server.log.read_text()[-6000:]}")
