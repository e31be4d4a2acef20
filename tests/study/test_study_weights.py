"""A real FSDP2 checkpoint of a wrapped model becomes a clean folder, bit for bit."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from hetero_plugin import NoiseConfig, wrap
from hetero_plugin.miniature import model as miniature
from hetero_plugin.study import weights
from hetero_plugin.verl import checkpoint as verl_checkpoint

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
    model = wrap(model, NoiseConfig.parse({"preset": "qerl-fp4", "scale": 0.05}))
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
    verl_checkpoint.merge(tmp_path / "actor", start, tmp_path / "merged")
    assert weights.check_clean(tmp_path / "merged")["architectures"] == ["Qwen2ForCausalLM"]
    moved = weights.movement(start, tmp_path / "merged")
    assert moved["dtype"] == "float32"
    assert 0.5 < moved["changed"] <= 1.0 and 0 < moved["relative_change"] < 0.01
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    assert set(again) == set(trained)
    for name, value in trained.items():
        assert torch.equal(again[name], value), name


def test_a_checkpoint_that_training_did_not_move_is_refused(start: Path) -> None:
    with pytest.raises(weights.CheckpointError, match="changed no weight"):
        weights.movement(start, start)


def test_a_checkpoint_with_noise_settings_is_not_clean(start: Path) -> None:
    path = start / "config.json"
    config = json.loads(path.read_text()) | {
        "quantization_config": {"quant_method": "hetero_noise"}
    }
    path.write_text(json.dumps(config))
    with pytest.raises(weights.CheckpointError, match="not clean: it has quantization_config"):
        weights.check_clean(start)


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(weights.CheckpointError, match=r"no config\.json"):
        weights.check_clean(tmp_path)
