"""A recording of a vLLM engine's own layers, on the inputs of one in Hugging Face. About 90 s.

In a process of its own, since the engine forks and this process has threads.
"""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from hetero_plugin.profile.asked import Asked
from hetero_plugin.profile.record import record
from hetero_plugin.profile.recording import Recording, check_comparable
from tests import forked
from tests.engines.vllm_engine import make_model

pytestmark = pytest.mark.engine

ROWS, COLUMNS = 33, 24
LAYER = "model.layers.0."


def serve(connection: Connection, jobs: str) -> None:
    """Makes recordings one after another, and answers what was said."""
    said: list[str] = []
    try:
        for job in json.loads(jobs):
            paths = {k: Path(job.pop(k)) for k in ("model", "out", "text", "replay") if k in job}
            record(Asked(**paths, **job), say=said.append)
        connection.send(said)
    except BaseException as error:
        connection.send(f"{type(error).__name__}: {error}")
        raise


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with recordings: plain and fused in both engines, and one of vLLM's own."""
    folder = tmp_path_factory.mktemp("recorded")
    model = make_model(
        folder / "model", hidden=64, heads=4, kv=2, inner=96, tied=True, dtype="bfloat16", vocab=272
    )
    from hetero_plugin.miniature.model import build_tokenizer

    build_tokenizer().save_pretrained(model)
    text = folder / "text.txt"
    text.write_text("one and two and three and four " * 9)
    common = {"model": str(model), "text": str(text), "rows": ROWS, "columns": COLUMNS}
    for name, fused in (("plain", False), ("fused", True)):
        out = folder / f"{name}.rec"
        record(Asked(model, out, text, rows=ROWS, columns=COLUMNS, fused=fused))
    vllm = {"model": str(model), "engine": "vllm", "columns": COLUMNS}
    jobs: list[dict[str, Any]] = [
        vllm | {"out": str(folder / "vllm.rec"), "replay": str(folder / "plain.rec")},
        vllm | {"out": str(folder / "both.rec"), "replay": str(folder / "fused.rec"),
                "targets": ["norm", "activation"], "layers": [0]},
        common | {"engine": "vllm", "out": str(folder / "own.rec"), "targets": ["linear"],
                  "variant": "rows:1", "repeats": 2},
    ]  # fmt: skip
    process, connection = forked.start(serve, (json.dumps(jobs),), folder / "log", {})
    said = connection.recv()
    process.join(60)
    assert isinstance(said, list), said
    return folder, said


def error(found: torch.Tensor, reference: torch.Tensor | None) -> float:
    """RMS of the error over that of the reference."""
    assert reference is not None
    wrong = (found.double() - reference).pow(2).mean() / reference.pow(2).mean()
    return float(wrong.sqrt())


def test_its_operators_on_the_very_inputs(made: tuple[Path, list[str]]) -> None:
    folder, said = made
    with Recording.open(folder / "plain.rec") as a, Recording.open(folder / "vllm.rec") as b:
        names = check_comparable(a, b)
        assert set(a.sites()) - set(names) == {f"model.layers.{i}.self_attn" for i in (0, 1)}
        assert any("KV cache" in line for line in said)
        assert b.header.engine == "vllm" and b.header.replay_of == a.header.digest
        assert b.header.machine["vllm"] and b.header.machine["enforce_eager"] == "True"
        for name in names:
            one, two = a.site(name), b.site(name)
            assert one.entry.kind == two.entry.kind and two.inputs == {}
            assert one.reference is not None and two.reference is not None
            assert torch.equal(one.reference, two.reference)
            # bfloat16 rounds by 0.17 % RMS; norms and activations may round once more.
            assert error(two.output[0], two.reference) < 0.004, name
            assert torch.allclose(one.row_rms, two.row_rms, rtol=0.01)
        q, k = (b.site(f"{LAYER}self_attn.{leaf}_proj").output for leaf in "qk")
        assert not torch.equal(q, k)


def test_fused_norms_and_activations(made: tuple[Path, list[str]]) -> None:
    folder, _ = made
    with Recording.open(folder / "fused.rec") as a, Recording.open(folder / "both.rec") as b:
        names = check_comparable(a, b)
        assert names == [f"{LAYER}input_layernorm", f"{LAYER}post_attention_layernorm",
                         f"{LAYER}mlp.act_fn"]  # fmt: skip
        assert set(b.entry(names[1]).inputs) == {"x", "residual"}
        assert set(b.entry(names[2]).inputs) == {"x", "up"}
        for name in names:
            two = b.site(name)
            assert error(two.output[0], two.reference) < 0.004, name


def test_without_a_recording_the_inputs_are_of_hugging_face(made: tuple[Path, list[str]]) -> None:
    folder, _ = made
    assert not (folder / "own.rec.inputs").exists()
    with Recording.open(folder / "plain.rec") as a, Recording.open(folder / "own.rec") as b:
        assert b.header.replay_of is None and b.header.variant == "rows:1"
        names = check_comparable(a, b)
        assert len(names) == 15 == len(b.sites())
        for name in names:
            one, two = a.site(name), b.site(name)
            assert torch.equal(one.inputs["x"], two.inputs["x"])
            assert two.output.shape[0] == 2
            assert error(two.output[0], two.reference) < 0.002, name
