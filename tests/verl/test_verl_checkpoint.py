"""Merging: sharded DTensors become the tensors they were cut from; what is not clean is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from hetero_plugin.verl.checkpoint import CheckpointError, merge, rank_files, read_sharded

NAMES = {"model.embed.weight": (6, 4), "model.norm.weight": (5,), "lm_head.weight": (6, 4)}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> object:
    import torch.distributed as dist

    store = tmp_path_factory.mktemp("dist") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def whole() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in NAMES.items()}


def base_folder(path: Path, **config: object) -> Path:
    path.mkdir()
    save_file(whole(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "qwen2", **config}))
    (path / "tokenizer.json").write_text("{}")
    return path


def shard(folder: Path, mesh: object, state: dict[str, torch.Tensor], ranks: int) -> Path:
    """Writes ``state`` as verl writes it from ``ranks`` ranks, cut as FSDP2 cuts."""
    folder.mkdir(parents=True)
    for rank in range(ranks):
        part = {}
        for name, value in state.items():
            if name == "model.norm.weight":
                part[name] = DTensor.from_local(value, mesh, [Replicate()])  # type: ignore[arg-type]
            else:
                chunks = [*value.chunk(ranks), *[value[:0]] * ranks]  # the last ranks may get none
                cut = chunks[rank].clone()
                part[name] = DTensor.from_local(cut, mesh, [Shard(0)])  # type: ignore[arg-type]
        torch.save(part, folder / f"model_world_size_{ranks}_rank_{rank}.pt")
    return folder


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_shards_become_the_model_bit_for_bit(tmp_path: Path, mesh: object, ranks: int) -> None:
    state = {name: value + 1 for name, value in whole().items()}
    actor = shard(tmp_path / "actor", mesh, state, ranks)
    output = merge(actor, base_folder(tmp_path / "base"), tmp_path / "merged")
    merged = load_file(output / "model.safetensors")
    assert merged.keys() == state.keys()
    assert all(torch.equal(merged[name], state[name]) for name in state)
    assert (output / "tokenizer.json").is_file() and (output / "config.json").is_file()
    assert not list(tmp_path.glob("*.partial"))


def test_a_tied_output_layer_may_be_listed(tmp_path: Path, mesh: object) -> None:
    actor = shard(tmp_path / "actor", mesh, whole(), 2)
    base = base_folder(tmp_path / "base", tie_word_embeddings=True)
    merged = load_file(merge(actor, base, tmp_path / "merged") / "model.safetensors")
    assert "lm_head.weight" not in merged


def test_a_leftover_of_noise_is_refused(tmp_path: Path, mesh: object) -> None:
    state = whole() | {"model.norm.noise_offset": torch.zeros(5)}
    actor = shard(tmp_path / "actor", mesh, state, 1)
    with pytest.raises(CheckpointError, match=r"not there before: \['model.norm.noise_offset'\]"):
        merge(actor, base_folder(tmp_path / "base"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_values_that_are_not_finite_are_refused(tmp_path: Path, mesh: object) -> None:
    state = whole()
    state["model.norm.weight"][2] = float("nan")
    actor = shard(tmp_path / "actor", mesh, state, 1)
    with pytest.raises(CheckpointError, match=r"not finite in \['model.norm.weight'\]"):
        merge(actor, base_folder(tmp_path / "base"), tmp_path / "merged")


def test_a_missing_rank_and_an_empty_folder_are_named(tmp_path: Path, mesh: object) -> None:
    actor = shard(tmp_path / "actor", mesh, whole(), 2)
    (actor / "model_world_size_2_rank_1.pt").unlink()
    with pytest.raises(CheckpointError, match=r"ranks \[1\] of 2"):
        rank_files(actor)
    with pytest.raises(CheckpointError, match="no model_world_size"):
        read_sharded(tmp_path)


@pytest.mark.parametrize(
    "target", ["base", "actor", "base/merged", "actor/huggingface", ".", "link/x"]
)
def test_its_inputs_are_never_written_over(tmp_path: Path, mesh: object, target: str) -> None:
    actor = shard(tmp_path / "actor", mesh, whole(), 1)
    base = base_folder(tmp_path / "base")
    (tmp_path / "link").symlink_to(base)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="overlaps with"):
        merge(actor, base, tmp_path / target)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_of_somebody_elses_is_not_replaced(tmp_path: Path, mesh: object) -> None:
    actor, base = shard(tmp_path / "actor", mesh, whole(), 1), base_folder(tmp_path / "base")
    other = base_folder(tmp_path / "another-model")
    (tmp_path / "merged.partial").mkdir()  # somebody's, whose name was ours once
    (tmp_path / "merged.partial" / "notes").write_text("mine")
    with pytest.raises(CheckpointError, match="did not write there"):
        merge(actor, base, other)
    assert (other / "model.safetensors").is_file()
    for _ in range(2):  # what merge wrote, merge may write anew
        merge(actor, base, tmp_path / "merged")
    assert (tmp_path / "merged.partial" / "notes").read_text() == "mine"


def test_a_merge_that_fails_leaves_the_earlier_one(
    tmp_path: Path, mesh: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor, base = shard(tmp_path / "actor", mesh, whole(), 1), base_folder(tmp_path / "base")
    output = merge(actor, base, tmp_path / "merged")
    before = (output / "model.safetensors").read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space"):
        merge(actor, base, output)
    assert (output / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["actor", "base", "merged"]


class Bomb:
    """Unpickled, it makes a file: as a checkpoint of somebody else's could."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("where", ["beside", "inside", "alone"])
def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path, mesh: object, where: str) -> None:
    actor, mark = shard(tmp_path / "actor", mesh, whole(), 1), tmp_path / "mark"
    bomb = Bomb(mark)
    state = {"beside": {**whole(), "x": bomb}, "inside": {"x": [bomb]}, "alone": bomb}[where]
    torch.save(state, actor / "model_world_size_1_rank_0.pt")
    with pytest.raises(CheckpointError, match="can't be read as tensors alone"):
        merge(actor, base_folder(tmp_path / "base"), tmp_path / "merged")
    assert not mark.exists() and not (tmp_path / "merged").exists()


@pytest.mark.parametrize("state", [[1, 2], {"a": 3}, {3: torch.zeros(1)}, torch.zeros(2)])
def test_a_checkpoint_of_something_else_is_named(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "model_world_size_1_rank_0.pt")
    with pytest.raises(CheckpointError, match="something else than named tensors"):
        read_sharded(tmp_path)


def test_half_a_file_is_named(tmp_path: Path, mesh: object) -> None:
    actor = shard(tmp_path / "actor", mesh, whole(), 1)
    path = actor / "model_world_size_1_rank_0.pt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"rank_0\.pt can't be read"):
        read_sharded(actor)
