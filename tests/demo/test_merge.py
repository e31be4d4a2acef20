"""Merging: a real FSDP2 checkpoint of a wrapped model becomes a clean folder, bit for bit."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from hetero_plugin import wrap
from hetero_plugin.demo import merge, settings
from hetero_plugin.demo import model as miniature

SHAPE = miniature.MiniatureShape(layers=2, hidden=64, intermediate=128, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def process_group() -> Iterator[None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def start(tmp_path: Path) -> Path:
    folder = tmp_path / "start"
    miniature.save(miniature.build_model(SHAPE, 0), miniature.build_tokenizer(), folder)
    return folder


def _train_and_save(start: Path, checkpoint: Path) -> dict[str, torch.Tensor]:
    """One step of a wrapped model under FSDP2, saved as verl saves it; the trained weights."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = AutoModelForCausalLM.from_pretrained(start)
    noise = settings.short().noise("noise")
    model = wrap(model, noise)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,), mesh_dim_names=("fsdp",)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.randint(3, 259, (4, 12), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    checkpoint.mkdir(parents=True)
    torch.save(model.state_dict(), checkpoint / "model_world_size_1_rank_0.pt")
    return {name: value.full_tensor().clone() for name, value in model.state_dict().items()}


@pytest.mark.usefixtures("process_group")
def test_the_merged_checkpoint_is_clean_and_keeps_every_bit(start: Path, tmp_path: Path) -> None:
    trained = _train_and_save(start, tmp_path / "actor")
    result = merge.merge(tmp_path / "actor", start, tmp_path / "merged")
    assert result["dtype"] == "float32"
    assert 0.5 < result["changed"] <= 1.0 and 0 < result["relative_change"] < 0.01
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert "quantization_config" not in config
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    assert set(again) == set(trained)
    for name, value in trained.items():
        assert torch.equal(again[name], value), name
    assert (tmp_path / "merged" / "tokenizer_config.json").is_file()


def _save(state: dict[str, torch.Tensor], folder: Path, name: str = "1_rank_0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / f"model_world_size_{name}.pt")
    return folder


def test_a_checkpoint_that_training_did_not_change_is_refused(start: Path, tmp_path: Path) -> None:
    state = AutoModelForCausalLM.from_pretrained(start).state_dict()
    with pytest.raises(merge.CheckpointError, match="changed no weight"):
        merge.merge(_save(state, tmp_path / "actor"), start, tmp_path / "merged")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.norm.offset": torch.zeros(64)}, "extra entries .'model.norm.offset'"),
        ({"model.norm.weight": torch.full((64,), float("nan"))}, "not finite"),
        ({"model.norm.weight": torch.ones(65)}, "has shape"),
    ],
)
def test_what_is_not_a_clean_state_is_refused(
    start: Path, tmp_path: Path, change: dict[str, torch.Tensor], words: str
) -> None:
    state = AutoModelForCausalLM.from_pretrained(start).state_dict() | change
    with pytest.raises(merge.CheckpointError, match=words):
        merge.merge(_save(state, tmp_path / "actor"), start, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_missing_shards_are_counted(start: Path, tmp_path: Path) -> None:
    with pytest.raises(merge.CheckpointError, match="found world sizes"):
        merge.shards(tmp_path)
    _save({}, tmp_path / "actor", "3_rank_1")
    with pytest.raises(merge.CheckpointError, match=r"ranks \[0, 2\] of 3"):
        merge.shards(tmp_path / "actor")


def test_a_checkpoint_with_noise_settings_is_not_clean(start: Path) -> None:
    path = start / "config.json"
    config = json.loads(path.read_text()) | {
        "quantization_config": {"quant_method": "hetero_noise"}
    }
    path.write_text(json.dumps(config))
    with pytest.raises(merge.CheckpointError, match="not clean: it has quantization_config"):
        merge.check_clean(start)
