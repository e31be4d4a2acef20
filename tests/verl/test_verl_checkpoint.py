"""Merging: sharded DTensors become the tensors they were cut from; what is not clean is refused."""

from __future__ import annotations

import json
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
