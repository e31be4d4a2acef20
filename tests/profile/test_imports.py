"""Recordings of what other tools dumped: safetensors pairs, and msProbe's folders. About 3 s.

The folders are laid out as msProbe 26.2.0 writes them for a Qwen2, which was seen by running it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hetero_plugin.cli import _run
from hetero_plugin.config import ConfigError
from hetero_plugin.profile.imports import imported
from hetero_plugin.profile.recording import Recording, check_comparable

Q, NORM = "model.layers.3.self_attn.q_proj", "model.norm"
GATE, ACT = "model.layers.3.mlp.gate_proj", "model.layers.3.mlp.act_fn"
CLASSES = {Q: "Linear", NORM: "Qwen2RMSNorm", GATE: "Linear", ACT: "SiLUActivation"}
N, K = {Q: 12, NORM: 8, GATE: 200, ACT: 200}, {Q: 8, NORM: 8, GATE: 8, ACT: 200}
SHAPE = (2, 5)


def tensors(seed: int = 0, other: tuple[str, ...] = ()) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and outputs; those of ``other`` are the outputs of another machine."""
    generator = torch.Generator().manual_seed(seed)

    def draw(width: int) -> Tensor:
        return torch.randn(*SHAPE, width, generator=generator).bfloat16()

    made = {name: (draw(K[name]), draw(N[name])) for name in CLASSES}
    for name in other:
        made[name] = (made[name][0], (made[name][1].float() * 1.01).bfloat16())
    return made


def as_safetensors(
    path: Path, made: dict[str, tuple[Tensor, Tensor]], inputs: bool = True, **metadata: str
) -> Path:
    flat = {f"{name}.output": y.clone() for name, (_, y) in made.items()}
    if inputs:
        flat |= {f"{name}.input": x.clone() for name, (x, _) in made.items()}
    save_file(flat, path, metadata=metadata or None)
    return path


def as_msprobe(
    path: Path, made: dict[str, tuple[Tensor, Tensor]], task: str = "tensor", prefix: str = "Module"
) -> Path:
    """Two calls of each module: its first sequence, then its second."""
    folder = path / "step0" / "rank0"
    (folder / "dump_tensor_data").mkdir(parents=True)
    data: dict[str, Any] = {"Module.model.embed_tokens.Embedding.forward.0": {"output": []}}
    for name, (x, y) in made.items():
        for call in range(SHAPE[0]):
            key = f"{prefix}.{name}.{CLASSES[name]}.forward.{call}"
            entry: dict[str, Any] = {}
            for part, place, tensor in (("input", "input_args", x), ("output", "output", y)):
                file = f"{key}.{part}.0.pt"
                torch.save(tensor[call : call + 1].clone(), folder / "dump_tensor_data" / file)
                entry[place] = [{"type": "torch.Tensor", "dtype": str(y.dtype), "data_name": file}]
            data[key] = entry | {"input_kwargs": {}, "parameters": {}}
    said = {"task": task, "level": "L0", "framework": "pytorch", "dump_data_dir": "/elsewhere"}
    (folder / "dump.json").write_text(json.dumps(said | {"data": data}))
    (folder / "construct.json").write_text("{}")
    return path


def pair(tmp_path: Path, a: Path, b: Path, **how: Any) -> tuple[Recording, Recording]:
    outs = (tmp_path / "a.rec", tmp_path / "b.rec")
    imported(a, b, *outs, **how)
    return Recording.open(outs[0]), Recording.open(outs[1])


@pytest.mark.parametrize("write", [as_safetensors, as_msprobe])
def test_a_pair_is_comparable(tmp_path: Path, write: Callable[..., Path]) -> None:
    one, two = tensors(), tensors(other=(Q,))
    a, b = pair(tmp_path, write(tmp_path / "a", one), write(tmp_path / "b", two), columns=50)
    in_order = [Q, GATE, ACT, NORM] if write is as_safetensors else list(CLASSES)
    assert check_comparable(a, b) == in_order
    assert a.header.engine == "imported" and a.header.dtype == "bfloat16"
    for name, (x, y) in one.items():
        found, other = a.site(name), b.site(name)
        rows, kept = y.reshape(-1, N[name]), found.columns
        assert torch.equal(found.output[0], rows[:, kept]) and found.output.shape[0] == 1
        assert torch.equal(found.inputs["x"], x.reshape(-1, K[name]))
        assert torch.equal(found.row_rms, rows.double().pow(2).mean(dim=1).sqrt())
        assert found.reference is None and len(kept) == min(N[name], 50)
        assert (found.entry.k, found.entry.n, found.entry.rows) == (K[name], N[name], 10)
        assert found.entry.layer == (None if name == NORM else 3)
        assert torch.equal(found.output, other.output) == (name != Q)
    kinds = {entry.name: entry.kind for entry in a.header.sites}
    assert kinds == {Q: "linear", NORM: "norm", GATE: "linear", ACT: "activation"}


def test_a_model_in_a_list_has_a_number_in_its_names(tmp_path: Path) -> None:
    made = tensors()
    a, _ = pair(
        tmp_path,
        as_msprobe(tmp_path / "a", made, prefix="Module.0"),
        as_msprobe(tmp_path / "b", made),
    )
    assert sorted(a.sites()) == sorted(CLASSES)


def test_operators_that_read_other_numbers(tmp_path: Path) -> None:
    one, two = tensors(), tensors()
    two[GATE] = (two[GATE][0] + 1, two[GATE][1])
    said: list[str] = []
    files = as_safetensors(tmp_path / "a", one), as_safetensors(tmp_path / "b", two)
    a, _ = pair(tmp_path, *files, say=said.append)
    assert sorted(a.sites()) == sorted({*CLASSES} - {GATE})
    assert said == [f"not imported: {GATE}: it reads other numbers on the two machines"]
    for name in ("a.rec", "b.rec"):
        (tmp_path / name).unlink()
    a, b = pair(tmp_path, *files, accumulated=True)
    assert GATE in check_comparable(a, b) and a.header.variant == "accumulated"
    assert a.entry(GATE).k == 8 and a.site(GATE).inputs == {}


def test_without_inputs_only_what_needs_no_width(tmp_path: Path) -> None:
    said: list[str] = []
    files = [as_safetensors(tmp_path / name, tensors(), inputs=False) for name in "ab"]
    a, b = pair(tmp_path, *files, say=said.append)
    assert sorted(check_comparable(a, b)) == sorted([NORM, ACT])
    assert "and 1 more: a linear layer needs its input" in said[0]


def test_a_kind_in_the_metadata(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(4, 6, generator=generator).bfloat16()
    save_file({"h.c_fc.output": y, "h.c_fc.input": y.clone()}, tmp_path / "a")
    save_file(
        {"h.c_fc.output": y, "h.c_fc.input": y.clone()},
        tmp_path / "b",
        metadata={"h.c_fc.kind": "linear"},
    )
    with pytest.raises(ConfigError, match=r"give the file the metadata 'h\.c_fc\.kind'"):
        pair(tmp_path, tmp_path / "a", tmp_path / "a")
    a, _ = pair(tmp_path, tmp_path / "b", tmp_path / "b")
    assert a.entry("h.c_fc").kind == "linear"


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    good = as_msprobe(tmp_path / "good", tensors())
    two = as_msprobe(tmp_path / "two" / "x", tensors()).parent
    as_msprobe(tmp_path / "two" / "y", tensors())
    statistics = as_msprobe(tmp_path / "statistics", tensors(), task="statistics")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "dump.json").write_text('{"task": "tensor", "data": {}}')
    text = tmp_path / "text.json"
    text.write_text("[]")
    other = as_safetensors(tmp_path / "other", {"lm_head": tensors()[Q]})
    broken = as_msprobe(tmp_path / "broken", tensors())
    next(broken.rglob("*q_proj*.output.0.pt")).write_bytes(b"no tensor")
    empty = tmp_path / "empty"
    save_file({"weight": torch.ones(2)}, empty)
    cases = [
        (tmp_path / "none", "there is no such file or folder"),
        (two, "holds 2 dumps; give one of them"),
        (statistics, "its task is 'statistics'"),
        (bare, "there is no folder dump_tensor_data beside it"),
        (text, "not a dump.json of msProbe"),
        (tmp_path / "two" / "x" / "step0" / "rank0" / "dump_tensor_data", "there is no dump.json"),
        (other, "no operator of the same name"),
        (broken, "can't be read"),
        (empty, r"none of which is called SITE\.output"),
        (next(good.rglob("*.pt")), "not a safetensors file"),
    ]
    for path, said in cases:
        with pytest.raises(ConfigError, match=said):
            pair(tmp_path, path, good)
        assert not (tmp_path / "a.rec").exists()


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "ran").touch, ())

    good = as_msprobe(tmp_path / "good", tensors())
    torch.save(Evil(), next(good.rglob("*q_proj*.output.0.pt")))
    with pytest.raises(ConfigError, match="can't be read"):
        pair(tmp_path, good, good)
    assert not (tmp_path / "ran").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (str(as_msprobe(tmp_path / name, tensors())) for name in "ab")
    outs = [str(tmp_path / "a.rec"), str(tmp_path / "b.rec")]
    with pytest.raises(SystemExit) as ended:
        _run("profile", ["import", "--a", a, "--b", b, "--out-a", outs[0], "--out-b", outs[1]])
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out.count("4 operators") == 2
