"""`vllm serve` as a user starts it: the arguments, every process, HTTP, and HF's numbers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.compat import needs_endpoint
from tests.engines.cancelling import WORDS
from tests.engines.serving import KEY, PROMPT, SCALE, Server, served

pytestmark = pytest.mark.engine

endpoint = needs_endpoint()  # all else of a server is there in every version


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("serve")) as made:
        yield made


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
    from hetero_plugin.attestation import problems

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


def _asked_in_three_ways(server: Server) -> list[tuple[str, list[float]]]:
    """Text and log-probabilities of one prompt: as a completion, streamed, and as a chat."""
    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY)
    model = str(server.model)
    asked: dict[str, Any] = {"model": model, "max_tokens": 8, "temperature": 0}
    more = {"extra_body": {"ignore_eos": True}}
    whole = client.completions.create(prompt="12+34=", logprobs=0, **asked, **more).choices[0]
    stream = client.completions.create(prompt="12+34=", logprobs=0, stream=True, **asked, **more)
    pieces = [piece.choices[0] for piece in stream if piece.choices]
    messages: list[Any] = [{"role": "user", "content": "12+34="}]
    chat = client.chat.completions.create(messages=messages, logprobs=True, **asked, **more)
    said = chat.choices[0]
    streamed = [
        value for piece in pieces if piece.logprobs for value in piece.logprobs.token_logprobs
    ]
    return [
        (whole.text, whole.logprobs.token_logprobs),
        ("".join(piece.text for piece in pieces), streamed),
        (said.message.content, [one.logprob for one in said.logprobs.content]),
    ]


@pytest.mark.compat("server")
def test_the_openai_client_completes_chats_and_streams(server: Server) -> None:
    """The same tokens, so the same noise, whichever way they come; and noise it is: at scale 0 all
    three are something else, and Hugging Face's without noise."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    server.call("hetero_noise_set", reset=True)
    server.call("hetero_noise_step", step=0)
    noisy = _asked_in_three_ways(server)
    server.call("hetero_noise_set", scale=0.0)
    clean = _asked_in_three_ways(server)
    server.call("hetero_noise_set", reset=True)
    for answers in (noisy, clean):
        for text, logprobs in answers[1:]:
            assert text == answers[0][0]
            assert logprobs == pytest.approx(answers[0][1], abs=1e-4)
    for (_, with_noise), (_, without) in zip(noisy, clean, strict=True):
        assert len(with_noise) == len(without) == 8
        assert abs(with_noise[0] - without[0]) > 1e-3, "the first token follows the same prompt"
        assert max(abs(a - b) for a, b in zip(with_noise, without, strict=True)) > 0.01
    ids = AutoTokenizer.from_pretrained(server.model)("12+34=", return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(server.model, dtype=torch.float32).eval()
    with torch.no_grad():
        first = float(model(ids).logits[0, -1].log_softmax(-1).max())
    assert clean[2][1][0] == pytest.approx(first, abs=1e-4)


RAW = [
    b'{"scale": 1e39}',
    b'{"scale": 1e-46}',
    b'{"scale": NaN}',
    b'{"scale": -Infinity}',
    b'{"scale": ' + b"9" * 5000 + b"}",
    b'{"step": 36893488147419103232}',
    b'{"scale": 0.1, "scale": 0.2}',
    b'{"scale": 0.1, "aqn": {"sigma": 0.1}}',  # the spec has none
    b'{"scale": 0.3, "step": 5, "kind": "norm"}',
    b'{"scale": 0.1, "site": "\\ud800"}',
    b'{"\\ud800": 1}',
    b'{"scale": "\xff"}',
    b"[" * 60_000,
    b'{"scale":' * 7_000,
]


@endpoint
@pytest.mark.compat("HTTP endpoint")
@pytest.mark.parametrize("body", [*RAW, b" " * 70_000], ids=lambda body: repr(body[:24]))
def test_a_body_of_whatever_kind_leaves_the_endpoints_answering(
    server: Server, body: bytes
) -> None:
    """In the numbers of the float32 table that the engine's process keeps, and on the way there."""
    before = json.loads(server.get("/v1/hetero_noise"))
    code, text = server.answer("/v1/hetero_noise", body)
    assert code == (422 if body in RAW else 413), text
    after = json.loads(server.get("/v1/hetero_noise"))
    assert {**after, "compiled": 0} == {**before, "compiled": 0}
    assert json.loads(server.get("/v1/models"))["data"][0]["hetero_noise"]["noisy"]
    assert not json.loads(server.get("/is_paused"))["is_paused"]


@endpoint
@pytest.mark.compat("HTTP endpoint")
def test_the_key_guards_the_endpoint(server: Server) -> None:
    change = b'{"scale": 0.2}'
    before = server.get("/v1/hetero_noise")
    for key in (None, "", "another"):
        assert server.answer("/v1/hetero_noise", key=key)[0] == 401
        assert server.answer("/v1/hetero_noise", change, key=key)[0] == 401
        assert server.answer("/v1/models", key=key)[0] == 401
    assert server.get("/v1/hetero_noise") == before
    assert server.answer("/v1/hetero_noise", change)[0] == 200
    assert server.answer("/v1/hetero_noise")[0] == 200
    server.post("/v1/hetero_noise", {"reset": True})
    assert "hetero_noise is open" not in server.log.read_text(), (
        "the warning is for servers without a key"
    )


@endpoint
@pytest.mark.compat("HTTP endpoint")
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_what_a_page_of_another_site_can_send_is_refused(server: Server, kind: str) -> None:
    before = server.get("/v1/hetero_noise")
    assert server.answer("/v1/hetero_noise", b'{"scale": 0.2}', content_type=kind)[0] == 415
    assert server.get("/v1/hetero_noise") == before


@endpoint
@pytest.mark.compat("HTTP endpoint")
def test_a_client_that_goes_away_leaves_nothing_paused(server: Server) -> None:
    """It waits for requests that run, and its connection ends; a middleware cancels its request."""
    from concurrent.futures import ThreadPoolExecutor

    body = b'{"scale": 0.4, "step": 9}'
    head = (
        f"POST /v1/hetero_noise HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    host, port = server.url.removeprefix("http://").split(":")
    paused, many = 0, 8
    with ThreadPoolExecutor(64) as pool:
        for pause in (0.0, 0.01, 0.05, 0.1, 0.2, 0.4):
            running = [pool.submit(server.complete, 80) for _ in range(many)]
            time.sleep(0.3)
            with socket.create_connection((host, int(port))) as gone:
                gone.sendall(head.encode() + body)
                time.sleep(pause)
                paused += json.loads(server.get("/is_paused"))["is_paused"]
            if not paused:  # they ended before it: a machine as fast as this needs more of them
                many = min(2 * many, 64)
            server.complete(1)  # nothing holds it
            for answer in running:
                answer.result()
            assert not json.loads(server.get("/is_paused"))["is_paused"]
            found = json.loads(server.get("/v1/hetero_noise"))
            scale = found["scales"]["linear"][0]
            assert (found["step"], scale) in (
                (0, pytest.approx(SCALE)),
                (9, pytest.approx(0.4)),
            ), "all of the change, or nothing"
            server.post("/v1/hetero_noise", {"reset": True, "step": 0})
    assert paused > 0 and WORDS in server.log.read_text(), "a request must have been cut for this"


@endpoint
@pytest.mark.compat("HTTP endpoint")
def test_no_response_mixes_two_settings(server: Server) -> None:
    """500 requests at a time while the scale goes up and down: each is all noisy or all clean.

    1e-3 is left for GEMMs of other heights, which every step's batch changes; the two settings are
    more than a hundred times that apart.
    """
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

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

    def ask(done: Event) -> list[tuple[list[float], list[str]]]:
        answers = [server.complete()]
        while not done.is_set():
            answers.append(server.complete())
        return answers

    enough = Event()
    with ThreadPoolExecutor(500) as pool:
        asking = [pool.submit(ask, enough) for _ in range(500)]
        for change in range(6):  # requests are under way at each, however long a change takes
            server.post("/v1/hetero_noise", {"scale": (SCALE, 0.0)[change % 2]})
        enough.set()
        found = [kind(answer) for one in asking for answer in one.result()]  # a failed one raises
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
