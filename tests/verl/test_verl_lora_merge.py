"""Merging a LoRA checkpoint of verl's FSDP: the clean base with the adapter added, or refused.

4 s in all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from hetero_plugin import AQN, AQNConfig, NoiseConfig, wrap
from hetero_plugin.verl.checkpoint import CheckpointError, merge

SPEC = NoiseConfig.parse({"preset": "linear", "scale": 0.05})
State = dict[str, torch.Tensor]
RANK, ALPHA = 3, 7  # alpha / rank is no number of few bits


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import torch.distributed as dist

    store = tmp_path_factory.mktemp("dist") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def base_folder(path: Path, dtype: torch.dtype, tied: bool = False) -> Path:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    Qwen2ForCausalLM(config).to(dtype).save_pretrained(path)
    (path / "tokenizer.json").write_text("{}")
    return path


def adapted(base: Path, noisy: bool = True) -> Any:
    """The actor in float32, as verl builds it: wrapped, then PEFT's; with an adapter that acts."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if noisy:
        wrap(model, SPEC, quiet=True)
        aqn = AQNConfig(schedule="constant", sigma_start=0.1, total_steps=3)
        AQN(model, aqn).step(1)
    torch.manual_seed(1)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=RANK,
        lora_alpha=ALPHA,
        target_modules="all-linear",
        init_lora_weights=False,
    )
    return get_peft_model(model, config)


def write(folder: Path, mesh: Any, state: State, ranks: int = 1, meta: Any = None) -> Path:
    """Writes ``state`` as verl writes it from ``ranks`` ranks of FSDP2."""
    folder.mkdir(parents=True)
    for rank in range(ranks):
        part = {}
        for name, value in state.items():
            chunks = [*value.detach().chunk(ranks), *[value[:0].detach()] * ranks]
            part[name] = DTensor.from_local(chunks[rank].clone(), mesh, [Shard(0)])
        torch.save(part, folder / f"model_world_size_{ranks}_rank_{rank}.pt")
    meta = {"r": RANK, "lora_alpha": ALPHA, "task_type": "CAUSAL_LM"} if meta is None else meta
    (folder / "lora_train_meta.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("alone", [False, True], ids=["whole", "save_lora_only"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_noisy_actor_gives_the_clean_base_and_its_adapter(
    tmp_path: Path, mesh: Any, dtype: torch.dtype, alone: bool, ranks: int
) -> None:
    """To the bit what PEFT merges of the clean model, in float32 and then in the base's dtype."""
    base = base_folder(tmp_path / "base", dtype)
    state = adapted(base).state_dict()
    if alone:
        state = {name: value for name, value in state.items() if "lora_" in name}
    output = merge(write(tmp_path / "actor", mesh, state, ranks), base, tmp_path / "merged")
    found, before = (load_file(p / "model.safetensors") for p in (output, base))
    wanted = adapted(base, noisy=False).merge_and_unload().state_dict()
    assert found.keys() == before.keys() == wanted.keys()
    for name, value in found.items():
        assert value.dtype == dtype and torch.equal(value, wanted[name].to(dtype)), name
        assert torch.equal(value, before[name]) != (name.endswith("_proj.weight")), name
    AutoModelForCausalLM.from_pretrained(output)


def test_a_tied_output_layer_stays_the_embedding(tmp_path: Path, mesh: Any) -> None:
    base = base_folder(tmp_path / "base", torch.float32, tied=True)
    state = adapted(base).state_dict()
    assert "base_model.model.lm_head.weight" in state
    output = merge(write(tmp_path / "actor", mesh, state), base, tmp_path / "merged")
    assert (
        load_file(output / "model.safetensors").keys()
        == load_file(base / "model.safetensors").keys()
    )


NORM = "base_model.model.model.norm.weight"
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


def moved(state: State) -> None:
    state[NORM] = state[NORM] + 1e-3


def lost(state: State) -> None:
    del state[f"{QUERY}.lora_B.default.weight"]


def magnitude(state: State) -> None:
    state[f"{QUERY}.lora_magnitude_vector.default.weight"] = torch.ones(16)


def embedding(state: State) -> None:
    state["base_model.model.model.embed_tokens.lora_embedding_A.default"] = torch.ones(3, 40)


def half(state: State) -> None:
    del state[NORM]


def offset(state: State) -> None:
    state["base_model.model.model.norm.noise_offset"] = torch.zeros(16)


def elsewhere(state: State) -> None:
    for factor in "AB":
        name = f"{QUERY}.lora_{factor}.default.weight"
        state[name.replace("q_proj", "x_proj")] = state[name]


def narrow(state: State) -> None:
    state[f"{QUERY}.lora_B.default.weight"] = torch.ones(8, RANK)


def infinite(state: State) -> None:
    state[f"{QUERY}.lora_B.default.weight"] = torch.full((16, RANK), float("inf"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (moved, r"frozen.*model\.norm\.weight"),
        (lost, r"lora_A of model\.layers\.0\.self_attn\.q_proj; .* has both"),
        (magnitude, r"not there: .*lora_magnitude_vector"),
        (embedding, r"not there: .*lora_embedding_A"),
        (half, r"missing: \['model\.norm\.weight'\]"),
        (offset, r"not there: \['model\.norm\.noise_offset'\]"),
        (elsewhere, r"x_proj; .* over model\.layers\.0\.self_attn\.x_proj\.weight"),
        (narrow, r"shape \(8, 16\); .* is of \(16, 16\)"),
        (infinite, "not finite in"),
    ],
)
def test_what_is_no_adapter_over_this_base_is_refused(
    tmp_path: Path, mesh: Any, spoil: Callable[[State], None], message: str
) -> None:
    base = base_folder(tmp_path / "base", torch.float32)
    state = dict(adapted(base).state_dict())
    spoil(state)
    actor = write(tmp_path / "actor", mesh, state)
    with pytest.raises(CheckpointError, match=message):
        merge(actor, base, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("meta", [{}, [], {"r": 4, "lora_alpha": 7}, {"r": 0, "lora_alpha": 7}])
def test_a_scale_that_is_not_known_is_not_guessed(tmp_path: Path, mesh: Any, meta: Any) -> None:
    base = base_folder(tmp_path / "base", torch.float32)
    actor = write(tmp_path / "actor", mesh, adapted(base).state_dict(), meta=meta)
    with pytest.raises(CheckpointError, match=r"lora_train_meta\.json"):
        merge(actor, base, tmp_path / "merged")
    (actor / "lora_train_meta.json").unlink()
    with pytest.raises(CheckpointError, match=r"lora_train_meta\.json does not tell"):
        merge(actor, base, tmp_path / "merged")


def test_another_base_is_refused(tmp_path: Path, mesh: Any) -> None:
    base = base_folder(tmp_path / "base", torch.float32)
    actor = write(tmp_path / "actor", mesh, adapted(base).state_dict())
    other = base_folder(tmp_path / "other", torch.float32)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="give the folder that training started from"):
        merge(actor, other, tmp_path / "merged")
