"""`vllm serve` as a user starts it: the arguments, every process, HTTP, and HF's numbers."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines.vllm_engine import make_model

pytestmark = pytest.mark.engine

SCALE = 0.05
PROMPT = [3 + (j * 11 + j * j) % 190 for j in range(40)]


@dataclass
class Server:
    url: str
    log: Path
    model: Path

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())

    def complete(self) -> tuple[list[float], list[str]]:
        """Log-probabilities and tokens of a greedy completion."""
        body = {
            "model": str(self.model),
            "prompt": PROMPT,
            "max_tokens": 12,
            "temperature": 0,
            "ignore_eos": True,
            "logprobs": 0,
            "return_tokens_as_token_ids": True,
        }
        found = self.post("/v1/completions", body)["choices"][0]["logprobs"]
        return found["token_logprobs"], found["tokens"]

    def call(self, method: str, **arguments: Any) -> Any:
        return self.post("/collective_rpc", {"method": method, "kwargs": arguments})["results"][0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from hetero_plugin.demo.model import build_tokenizer

    path = tmp_path_factory.mktemp("serve")
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
    command += [f"--hetero-noise-scale={SCALE}"]
    env = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    env |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CACHE_ROOT": str(path / "cache")}
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


def test_the_worker_process_says_what_it_does(server: Server) -> None:
    lines = [x for x in server.log.read_text().splitlines() if "hetero_noise: engine" in x]
    assert len(lines) == 1, lines
    assert "(linear 14)" in lines[0] and f"scale {SCALE:g}" in lines[0]
    assert "Worker" in lines[0], "a process of its own, not the server's"


def hf_completion(server: Server, noisy: bool) -> tuple[list[float], list[str]]:
    import torch
    from transformers import AutoModelForCausalLM

    from hetero_plugin.config import NoiseConfig
    from hetero_plugin.hf import wrap

    model = AutoModelForCausalLM.from_pretrained(server.model, dtype=torch.float32).eval()
    if noisy:
        wrap(model, NoiseConfig(scale=SCALE))
    ids, logprobs = list(PROMPT), []
    for _ in range(12):
        with torch.no_grad():
            last = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        ids.append(int(last.argmax()))
        logprobs.append(float(last.max()))
    return logprobs, [f"token_id:{token}" for token in ids[len(PROMPT) :]]


def test_completions_are_noisy_as_hugging_face_is_and_clean_at_zero(server: Server) -> None:
    for noisy in (True, False):
        server.call("hetero_noise_set", scale=SCALE if noisy else 0.0)
        logprobs, tokens = server.complete()
        expected, words = hf_completion(server, noisy)
        assert tokens == words
        assert logprobs == pytest.approx(expected, abs=1e-4)
    server.call("hetero_noise_set", reset=True)
    noisy_again, _ = server.complete()
    assert max(abs(a - b) for a, b in zip(noisy_again, logprobs, strict=True)) > 0.01


def test_status_over_http_is_json(server: Server) -> None:
    status = server.call("hetero_noise_status")
    assert status["noisy"] and status["sites"] == {"linear": 14}
    assert status["scales"] == {"linear": [pytest.approx(SCALE)]}
