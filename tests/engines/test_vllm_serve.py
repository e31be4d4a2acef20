"""`vllm serve` as a user starts it: the arguments, every process, HTTP, and HF's numbers."""

from __future__ import annotations

import importlib.util
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

from tests.compat import NO_ENDPOINT
from tests.engines.vllm_engine import make_model

pytestmark = pytest.mark.engine

ENDPOINT = importlib.util.find_spec("vllm.plugins.endpoint_plugins") is not None
endpoint = pytest.mark.skipif(not ENDPOINT, reason=NO_ENDPOINT)  # all else of a server is there

SCALE = 0.05
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
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

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return answer.read().decode()

    def refusal(self, body: dict[str, Any]) -> tuple[int, str]:
        """Status code and reason of a POST to the noise endpoint that has to fail."""
        with pytest.raises(urllib.error.HTTPError) as caught:
            self.post("/v1/hetero_noise", body)
        return caught.value.code, caught.value.read().decode()

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
    command += [f"--hetero-noise-scale={SCALE}", f"--chat-template={TEMPLATE}"]
    command += ["--hetero-noise-attest"]
    env = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    env |= {
        "VLLM_PLUGINS": "hetero_noise,hetero_noise_http",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CACHE_ROOT": str(path / "cache"),
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


@pytest.mark.compat("server", short=True)
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


@pytest.mark.compat("server", short=True)
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


@pytest.mark.compat("server", short=True)
def test_status_over_http_is_json(server: Server) -> None:
    status = server.call("hetero_noise_status")
    assert status["noisy"] and status["sites"] == {"linear": 14}
    assert status["scales"] == {"linear": [pytest.approx(SCALE)]}


@pytest.mark.compat("attestation", short=True)
def test_the_server_has_attested_itself_before_it_answered(server: Server) -> None:
    """In the process that serves."""
    log = server.log.read_text()
    said = log.index("attestation at start: passed, 14 of 14 sites seen")
    assert said < log.index("Application startup complete")


@endpoint
@pytest.mark.compat("HTTP endpoint", short=True)
def test_the_record_is_there_for_whoever_asks(server: Server) -> None:
    from hetero_plugin.attestation.attest import problems

    record = json.loads(server.get("/v1/hetero_noise?attestation=true"))["attestation"]
    assert problems(record, record["fingerprint"]) == []
    assert record["engine"] == "vllm-compiled" and len(record["sites"]) == 14
    shown = json.loads(server.get("/v1/hetero_noise"))
    assert shown["fingerprint"] == record["fingerprint"]
    assert shown["attestation"]["signature"] == record["signature"]
    assert shown["attestation"]["passed"] and "sites" not in shown["attestation"]
    assert shown["step"] == 0 and shown["scales"]["linear"] == [pytest.approx(SCALE)]


@endpoint
@pytest.mark.compat("HTTP endpoint", short=True)
def test_the_endpoint_reads_and_changes_the_noise(server: Server) -> None:
    status = json.loads(server.get("/v1/hetero_noise?sites=true"))
    assert status["noisy"] and status["sites"] == {"linear": 14}
    assert len(status["site_list"]) == 14
    site = "model.layers.1.mlp.down_proj"
    changed = server.post("/v1/hetero_noise", {"scale": 0.0, "site": site, "step": 3})
    assert changed["step"] == 3 and changed["scales"]["linear"] == [0.0, pytest.approx(SCALE)]
    assert server.call("hetero_noise_status")["scales"] == changed["scales"]
    off = server.post("/v1/hetero_noise", {"enabled": False, "wait": False})
    assert off["active"] == 0
    back = server.post("/v1/hetero_noise", {"reset": True, "step": 0})
    assert back["enabled"] and back["scales"]["linear"] == [pytest.approx(SCALE)]


@endpoint
@pytest.mark.compat("HTTP endpoint")
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"scale": -0.1}, "greater than or equal to 0"),
        ({"scale": "much"}, "much"),
        ({"scal": 0.1}, "scal"),
        ({"scale": 0.1, "kind": "liner"}, "liner"),
        ({"scale": 0.1, "site": "model.layers.9.mlp.up_proj"}, "layers.9"),
        ({"step": 1.5}, "1.5"),
        ({"kind": "linear", "step": 1}, "give one of these"),
        ({}, "nothing to do"),
    ],
)
def test_the_endpoint_refuses_with_a_reason(
    server: Server, body: dict[str, Any], said: str
) -> None:
    before = server.get("/v1/hetero_noise")
    code, text = server.refusal(body)
    assert code == 422 and said in text
    assert json.loads(server.get("/v1/hetero_noise"))["scales"] == json.loads(before)["scales"]


@pytest.mark.compat("server", short=True)
def test_the_model_card_and_the_metrics_say_that_it_is_noisy(server: Server) -> None:
    server.call("hetero_noise_set", scale=0.02)
    server.call("hetero_noise_step", step=7)
    card = json.loads(server.get("/v1/models"))["data"][0]["hetero_noise"]
    assert card["noisy"] and card["step"] == 7 and card["attested"]
    assert card["scales"]["linear"] == [pytest.approx(0.02)]
    lines = server.get("/metrics").splitlines()
    assert 'hetero_noise_sites{kind="linear"} 14.0' in lines
    scale = next(line for line in lines if line.startswith("hetero_noise_scale{"))
    assert float(scale.split()[-1]) == pytest.approx(0.02)
    assert "hetero_noise_step 7.0" in lines
    assert any(card["fingerprint"] in x for x in lines if x.startswith("hetero_noise_spec_info"))
    changes = next(x for x in lines if x.startswith("hetero_noise_changes_total"))
    assert float(changes.split()[-1]) >= 2
    server.call("hetero_noise_set", reset=True)
    server.call("hetero_noise_step", step=0)


@pytest.mark.compat("server")
def test_the_openai_client_completes_chats_and_streams(server: Server) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    model = str(server.model)
    asked: dict[str, Any] = {"model": model, "max_tokens": 8, "temperature": 0}
    more = {"extra_body": {"ignore_eos": True}}
    whole = client.completions.create(prompt="12+34=", **asked, **more).choices[0].text
    pieces = client.completions.create(prompt="12+34=", stream=True, **asked, **more)
    assert "".join(piece.choices[0].text for piece in pieces) == whole
    messages: list[Any] = [{"role": "user", "content": "12+34="}]
    chat = client.chat.completions.create(messages=messages, **asked, **more)
    assert chat.choices[0].message.content == whole, "the same tokens, so the same noise"


@endpoint
@pytest.mark.compat("HTTP endpoint")
def test_no_response_mixes_two_settings(server: Server) -> None:
    """500 requests at a time while the scale goes up and down: each is all noisy or all clean.

    1e-3 is left for GEMMs of other heights, which every step's batch changes; the two settings are
    more than a hundred times that apart.
    """
    from concurrent.futures import ThreadPoolExecutor

    expected = {}
    for scale in (SCALE, 0.0):
        server.post("/v1/hetero_noise", {"scale": scale})
        expected[scale] = server.complete()
    apart = max(abs(a - b) for a, b in zip(expected[SCALE][0], expected[0.0][0], strict=True))
    assert apart > 0.1

    def kind(answer: tuple[list[float], list[str]]) -> float | None:
        for scale, (logprobs, tokens) in expected.items():
            if answer[1] == tokens and answer[0] == pytest.approx(logprobs, abs=1e-3):
                return scale
        return None

    with ThreadPoolExecutor(500) as pool:
        answers = [pool.submit(server.complete) for _ in range(500)]
        changes = 0
        while not all(answer.done() for answer in answers):
            server.post("/v1/hetero_noise", {"scale": (SCALE, 0.0)[changes % 2]})
            changes += 1
        found = [kind(answer.result()) for answer in answers]  # a failed request raises here
    assert changes >= 2
    assert None not in found, f"{found.count(None)} responses are neither noisy nor clean"
    assert {SCALE, 0.0} == set(found), "both settings must have been met for this to count"
    server.post("/v1/hetero_noise", {"scale": 0.0})
    assert server.complete() == expected[0.0]
    server.post("/v1/hetero_noise", {"reset": True})


SPOILER = """
def register():
    from hetero_plugin.vllm import install

    original = install.install

    def spoiled(worker):
        found = original(worker)
        layer = worker.model_runner.get_model().model.layers[1].mlp.down_proj
        layer.quant_method.noise = None
        return found

    install.install = spoiled
"""


@pytest.mark.compat("attestation")
def test_a_server_that_can_not_attest_itself_does_not_start(server: Server, tmp_path: Path) -> None:
    """Another plugin takes one site's noise away, in the worker: the server names it and ends."""
    (tmp_path / "spoiler.py").write_text(SPOILER)
    info = tmp_path / "spoiler-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spoiler\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nspoiler = spoiler:register\n")
    command = [Path(sys.executable).with_name("vllm"), "serve", server.model, "--dtype=float32"]
    command += ["--max-model-len=64", "--max-num-batched-tokens=64", "--max-num-seqs=8"]
    command += ["--kv-cache-memory-bytes=67108864", "--host=127.0.0.1", "--port=0"]
    command += ["--enforce-eager", "--hetero-noise-scale=0.05", "--hetero-noise-attest"]
    env = os.environ | {"PYTHONPATH": str(tmp_path), "VLLM_PLUGINS": "hetero_noise,spoiler"}
    done = subprocess.run(
        [str(word) for word in command], env=env, capture_output=True, text=True, timeout=600
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "attestation at start: REFUSED, 13 of 14 sites seen" in said
    assert "REFUSED: every site seen: not seen: model.layers.1.mlp.down_proj" in said
    assert "Application startup complete" not in said
