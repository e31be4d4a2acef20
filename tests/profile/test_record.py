"""A recording of a checkpoint: made, killed, replayed, refused; its command. About 25 s."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hetero_plugin.cli import _run
from hetero_plugin.config import ConfigError
from hetero_plugin.profile import running
from hetero_plugin.profile.asked import Asked
from hetero_plugin.profile.record import record
from hetero_plugin.profile.recording import Recording, check_comparable
from hetero_plugin.profile.source import sequence_lengths

ROWS, COLUMNS, REPEATS = 40, 24, 2


@pytest.fixture(scope="module")
def first(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of everything."""
    out = tmp_path_factory.mktemp("first") / "a.rec"
    record(asked(checkpoint, out, text=text))
    return out


def asked(checkpoint: Path, out: Path, **changes: Any) -> Asked:
    sizes = {} if "replay" in changes else {"rows": ROWS, "columns": COLUMNS}
    return replace(Asked(checkpoint, out, repeats=REPEATS), **(sizes | changes))


def test_lengths_are_long_and_short_and_all_rows() -> None:
    assert sequence_lengths(128) == (42, 28, 19, 13, 8, 8, 8, 2)
    for rows in (2, 9, 100, 4096):
        lengths = sequence_lengths(rows)
        assert sum(lengths) == rows and min(lengths) > 0 and max(lengths) <= 512


def test_a_recording_by_the_models_own_weights(first: Path, checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    with Recording.open(first) as found:
        header = found.header
        assert (header.dtype, header.engine, header.variant) == ("bfloat16", "hf", "plain")
        assert header.sequences == sequence_lengths(ROWS) and len(header.tokens) == ROWS
        starts = [i for i, position in enumerate(header.positions) if position == 0]
        assert len(starts) == len(header.sequences)
        assert len(found.sites()) == 2 * 11 + 2 and found.sites()[-1] == "lm_head"
        assert header.machine["device"].startswith("cpu: ") and header.machine["torch"]
        for name in found.sites():
            one = found.site(name)
            entry = one.entry
            assert one.output.shape == (REPEATS, ROWS, entry.columns)
            assert entry.columns == min(COLUMNS, entry.n)
            assert torch.equal(one.output[0], one.output[1])
            if entry.kind in ("linear", "lm_head"):
                weight = weights[f"{name}.weight"].double()
                y = one.inputs["x"].double() @ weight.T
                if (bias := weights.get(f"{name}.bias")) is not None:
                    y = y + bias.double()
                assert one.reference is not None
                assert torch.allclose(one.reference, y[:, one.columns], rtol=1e-10, atol=1e-12)
                rms = y.pow(2).mean(dim=1).sqrt()
                assert torch.allclose(one.row_rms, rms, rtol=2e-3)
                assert (entry.n, entry.k) == tuple(weight.shape)
            if entry.kind == "norm":
                assert one.weight is not None
                assert torch.equal(one.weight, weights[f"{name}.weight"])
                assert entry.extra["eps"] > 0
        q, k = (found.entry(f"model.layers.0.self_attn.{leaf}_proj") for leaf in "qk")
        assert k.inputs_of == q.name and k.inputs_sha256 == q.inputs_sha256


def test_a_replay_has_the_very_inputs(first: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.rec"
    record(asked(checkpoint, out, replay=first))
    wide = tmp_path / "c.rec"
    said: list[str] = []
    record(
        asked(checkpoint, wide, replay=first, variant="gaussian:0.1", layers=(1,),
              targets=("linear",)),
        say=said.append,
    )  # fmt: skip
    assert "7 of the 24 sites of a.rec are recorded" in said
    with Recording.open(first) as a, Recording.open(out) as b, Recording.open(wide) as c:
        assert b.header.replay_of == a.header.digest and c.header.variant == "gaussian:0.1"
        assert check_comparable(a, b) == a.sites()
        assert b.header.bytes < a.header.bytes
        for name in a.sites():
            one, two = a.site(name), b.site(name)
            assert torch.equal(one.output, two.output) and two.inputs == {}
            assert one.reference is not None and two.reference is not None
            assert torch.equal(one.reference, two.reference)
        names = check_comparable(a, c)
        assert len(names) == 7 and all("layers.1." in name for name in names)
        assert not torch.equal(a.site(names[0]).output, c.site(names[0]).output)


def test_a_killed_recording_goes_on(
    first: Path, checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.rec"
    run, calls = running.run_operator, []

    def killed(operator: Any, *args: Any, **how: Any) -> Any:
        calls.append(operator.name)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return run(operator, *args, **how)

    monkeypatch.setattr(running, "run_operator", killed)
    with pytest.raises(KeyboardInterrupt):
        record(asked(checkpoint, out, text=text))
    with pytest.raises(ConfigError, match="repeats 2, and now it is 3"):
        record(asked(checkpoint, out, text=text, repeats=3))
    with pytest.raises(ConfigError, match="variant 'plain', and now it is 'fp32-gemm'"):
        record(asked(checkpoint, out, text=text, variant="fp32-gemm"))
    before = list(calls)
    record(asked(checkpoint, out, text=text))
    assert before[:8] == Recording.open(out).sites()[:8]
    assert calls[len(before) :] == Recording.open(out).sites()[8:]
    assert out.read_bytes() == first.read_bytes()


def test_what_cannot_be_recorded(first: Path, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    short = tmp_path / "short.txt"
    short.write_text("short")
    replayed = tmp_path / "replayed.rec"
    record(asked(checkpoint, replayed, replay=first, layers=(0,), targets=("norm",)))
    cases: list[tuple[str, Path, dict[str, Any]]] = [
        ("give --text, or --replay-inputs", checkpoint, {}),
        ("short.txt: holds 5 tokens, and --rows 40", checkpoint, {"text": short}),
        ("no config.json", tmp_path, {"text": text}),
        ("can't be read: No such file", checkpoint, {"text": tmp_path / "none.txt"}),
        ("give the same checkpoint", other, {"replay": first}),
        ("is another text than that of", checkpoint, {"replay": first, "text": _long(tmp_path)}),
        ("--rows 41: .*a.rec has 40", checkpoint, {"replay": first, "rows": 41}),
        ("--columns 8: .*a.rec has 24", checkpoint, {"replay": first, "columns": 8}),
        ("record that one with --fused", checkpoint, {"replay": first, "fused": True}),
        ("vLLM has its own", checkpoint, {"text": text, "engine": "vllm", "device": "cpu"}),
        ("say --dtype bfloat16", checkpoint, {"replay": first, "dtype": "float32"}),
        ("holds no inputs", checkpoint, {"replay": replayed}),
        ("--rows 1: should be from 2", checkpoint, {"text": text, "rows": 1}),
        ("the model has no layer 7; its layers are 0 to 1", checkpoint,
         {"text": text, "layers": (7,)}),
        ("--targets: 'nrm' matches none", checkpoint, {"text": text, "targets": ("nrm",)}),
        ("--dtype 'int4'", checkpoint, {"text": text, "dtype": "int4"}),
        ("--as 'fp16'", checkpoint, {"text": text, "variant": "fp16"}),
        ("layers 0 to 1|should be", checkpoint, {"text": text, "layers": ("x",)}),
        ("can't be loaded on warp", checkpoint, {"text": text, "device": "warp"}),
    ]  # fmt: skip
    for said, model, changes in cases:
        with pytest.raises(ConfigError, match=said):
            record(asked(model, tmp_path / "out.rec", **changes))
        assert not (tmp_path / "out.rec").exists()


def _long(folder: Path) -> Path:
    file = folder / "long.txt"
    file.write_text("something else " * 20)
    return file


def test_a_disk_that_is_too_small(
    checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match="MB are free; record fewer --layers"):
        record(asked(checkpoint, tmp_path / "a.rec", text=text))


@pytest.mark.parametrize("fused", [False, True])
def test_the_size_is_said_before_it_begins(
    checkpoint: Path, text: Path, tmp_path: Path, fused: bool
) -> None:
    said: list[str] = []
    out = tmp_path / "a.rec"
    made = record(
        asked(checkpoint, out, text=text, layers=(0, "outside"), fused=fused), say=said.append
    )
    assert len(made.sites) == 11 + 2
    size = float(said[-1].rpartition(": ")[2].removesuffix(" MB"))
    # Beside tensors a site's file holds their names and shapes: some 500 bytes.
    assert size == pytest.approx(made.bytes / 1e6, abs=0.051 + 13 * 600 / 1e6)
    if fused:
        assert set(made.sites[6].inputs) == {"x", "residual"}


def test_the_command(
    first: Path, checkpoint: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", checkpoint, "--text", text, "--rows", ROWS, "--columns", COLUMNS]
    out = tmp_path / "a.rec"
    words = [str(word) for word in [*given, "--repeats", REPEATS, "--out", out]]
    with pytest.raises(SystemExit) as ended:
        _run("profile", ["record", *words])
    assert ended.value.code in (0, None)
    found = capsys.readouterr()
    assert "24 operators" in found.out and "recording (24)" in found.err
    assert out.read_bytes() == first.read_bytes()
    with pytest.raises(SystemExit) as ended:
        _run("profile", ["record", *words])
    assert ended.value.code == 2
    assert "is there already; give another, or remove it" in capsys.readouterr().err


def test_a_killed_command_goes_on(
    first: Path, checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    """By SIGKILL, between two operators, in a process of its own."""
    out = tmp_path / "a.rec"
    code = f"""
import os, signal
from pathlib import Path
from hetero_plugin.profile import recording
from hetero_plugin.profile.asked import Asked
from hetero_plugin.profile.record import record
put, calls = recording._put, []
def dies(path, content):
    calls.append(path)
    if len(calls) == 13:  # a site's file is there, and the header does not know it
        os.kill(os.getpid(), signal.SIGKILL)
    put(path, content)
recording._put = dies
record(Asked(Path({str(checkpoint)!r}), Path({str(out)!r}), Path({str(text)!r}), rows={ROWS},
             columns={COLUMNS}, repeats={REPEATS}))
"""
    # Another test may have set this process's threads, which the header tells.
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=env)
    assert done.returncode == -9 and not out.exists()
    begun = json.loads((tmp_path / "a.rec.part" / "header.json").read_text())
    assert len(begun["sites"]) == 5
    record(asked(checkpoint, out, text=text))
    assert out.read_bytes() == first.read_bytes()


def test_a_machine_is_the_same_before_and_after_vllm() -> None:
    """Its CPU wheel has another name until vLLM's plugins are loaded."""
    pytest.importorskip("vllm")
    code = "from hetero_plugin.profile.machine import facts; print(facts('cpu')['vllm']);"
    seen = [
        subprocess.run([sys.executable, "-c", one], capture_output=True, check=True, text=True)
        for one in (code, "from hetero_plugin.vllm.wheel import *; name_cpu_wheel();" + code)
    ]
    assert seen[0].stdout == seen[1].stdout != ""
