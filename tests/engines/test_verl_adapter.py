"""What verl's actor computes with a LoRA adapter is what its vLLM computes with the adapter loaded.

verl's own functions build, train, save and sync; Ray, the trainer and the sockets are left out. The
whole run is in test_verl_lora.py. 40 s on a quiet machine. Bounds as in test_vllm_families.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hetero_plugin.config import NoiseConfig
from hetero_plugin.hf import disabled
from hetero_plugin.verl import active
from hetero_plugin.verl.checkpoint import merge
from hetero_plugin.verl.settings import RunNoise, RunOptions
from tests.engines.verl_adapter_engine import ENVIRONMENT, SETTINGS, VerlEngine
from tests.engines.verl_run import MARKS
from tests.engines.vllm_engine import Record, make_model
from tests.engines.yardstick import gap, hf_logprobs, hf_model, prompts_of

pytestmark = MARKS

SPEC: Record = {
    "rules": [
        {"targets": ["linear", "norm"], "scale": 0.05},
        {"targets": ["*.down_proj"], "error": "nvfp4", "point": "weight"},
    ],
    "seed": 5,
    "aqn": {"schedule": "constant", "sigma_start": 0.02, "total_steps": 3},
}
PROMPTS = [[5, 6, 7], list(range(20, 60)), [9] * 7, list(range(100, 117))]
Rows = list[list[float]]


def build(model: Path) -> Any:
    """verl's FSDP2 engine of one rank with an adapter, noisy; a process group has to be there."""
    import verl.workers.engine.fsdp.transformer_impl  # noqa: F401  # first, for the patches
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig

    from hetero_plugin.verl.engine import NoisyFSDPEngineCPU

    full = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    engine = NoisyFSDPEngineCPU(
        model_config=HFModelConfig(
            path=str(model),
            load_tokenizer=False,
            use_remove_padding=False,
            enable_gradient_checkpointing=False,
            override_config={"attn_implementation": "sdpa"},
            lora_rank=8,
            lora_alpha=16,
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2", model_dtype="fp32", mixed_precision=full, use_torch_compile=False
        ),
        optimizer_config=FSDPOptimizerConfig(lr=0.03),
        checkpoint_config=CheckpointConfig(save_contents=["model"]),
    )
    active._current = RunNoise(NoiseConfig.parse(SPEC), RunOptions(actor_aqn=True))
    try:
        engine.initialize()
    finally:
        active._current = None
    return engine


def train(engine: Any) -> None:
    """One update of the adapter, far enough to be seen."""
    with engine.train_mode():
        ids = torch.tensor([PROMPTS[1]])
        logits = engine.module(input_ids=ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
        engine.optimizer_step()


def exported(engine: Any, path: Path, base_done: bool) -> Record:
    """Writes what a sync would send; returns the adapter's configuration as vLLM receives it."""
    import msgspec
    from safetensors.torch import save_file

    weights, peft = engine.get_per_tensor_param(layered_summon=False, base_sync_done=base_done)
    save_file({name: value.detach().clone().contiguous() for name, value in weights}, path)
    return msgspec.msgpack.decode(msgspec.msgpack.encode(peft))


def actor(model: Path, folder: Path) -> Record:
    """Two updates in verl's engine: the weights of each sync, and log-probabilities by name."""
    engine = build(model)
    rows: dict[str, Rows] = {}
    with engine.eval_mode():
        peft = exported(engine, folder / "base.safetensors", False)
    for step in range(3):
        if step:
            train(engine)
        active.set_actor_step(step)
        with engine.eval_mode():
            again = exported(engine, folder / f"adapter-{step}.safetensors", True)
            assert again == peft
            rows[f"noisy {step}"] = hf_logprobs(engine.module, PROMPTS)
            with engine.disable_adapter():
                rows["reference"] = hf_logprobs(engine.module, PROMPTS)
            with disabled(engine.noisy_model):
                rows[f"clean {step}"] = hf_logprobs(engine.module, PROMPTS)
            with engine.module.disable_adapter():
                rows[f"base {step}"] = hf_logprobs(engine.module, PROMPTS)
    engine.save_checkpoint(str(folder / "actor"), global_step=2)
    return {"peft": peft, "rows": rows}


def rollout(engine: Any, folder: Path, peft: Record) -> dict[str, Rows]:
    """The same in vLLM, whose weights come by verl's syncs alone."""
    rows: dict[str, Rows] = {}
    assert (
        engine.ask("sync", path=str(folder / "base.safetensors"), peft=peft, base_done=False) == []
    )
    for step in range(3):
        path = str(folder / f"adapter-{step}.safetensors")
        assert engine.ask("sync", path=path, peft=peft, base_done=True) == [123]
        engine.ask("call", method="hetero_noise_step", arguments={"step": step})
        rows[f"noisy {step}"] = engine.ask("adapted", prompts=PROMPTS, adapter="verl's")
        rows[f"base {step}"] = prompts_of(engine.logprobs(*PROMPTS))
    engine.set(enabled=False)
    engine.ask("call", method="hetero_noise_aqn", arguments={"off": True})
    rows["clean 2"] = engine.ask("adapted", prompts=PROMPTS, adapter="verl's")
    engine.set(enabled=True)
    engine.ask("call", method="hetero_noise_aqn", arguments={"step": 2})
    return rows


def compare(found: dict[str, Rows], wanted: dict[str, Rows]) -> None:
    bound = max(1.5 * gap(found["clean 2"], wanted["clean 2"]), 2e-5)
    assert bound < 1e-4
    for name in found:
        assert gap(found[name], wanted[name]) <= bound, name
    far = 100 * bound
    assert gap(wanted["noisy 2"], wanted["clean 2"]) > far
    # Each sync brought another adapter, and the first one adds nothing.
    assert gap(wanted["noisy 0"], wanted["base 0"]) == 0.0
    for step in (1, 2):
        assert gap(wanted[f"noisy {step}"], wanted[f"base {step}"]) > far
    assert gap(wanted["clean 1"], wanted["clean 2"]) > far
    assert wanted["reference"] == wanted["clean 0"] != wanted["base 2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, Record]]:
    """(the model, the folder of syncs and checkpoint, what the actor computed)."""
    import torch.distributed as dist

    folder = tmp_path_factory.mktemp("adapter")
    model = make_model(
        folder / "model", hidden=64, heads=2, kv=1, inner=96, tied=False, dtype="float32"
    )
    dist.init_process_group(
        "cpu:gloo", init_method=f"file://{folder / 'store'}", rank=0, world_size=1
    )
    before = list(active._actors)
    try:
        yield model, folder, actor(model, folder)
    finally:
        active._actors[:] = before
        dist.destroy_process_group()


@pytest.mark.timeout(600)
def test_the_rollout_computes_what_the_actor_computes(
    made: tuple[Path, Path, Record], tmp_path: Path
) -> None:
    model, folder, wanted = made
    settings = SETTINGS | {"additional_config": {"hetero_noise": SPEC}}
    engine = VerlEngine(tmp_path / "log.txt", ENVIRONMENT, model=str(model), **settings)
    try:
        compare(rollout(engine, folder, wanted["peft"]), wanted["rows"])
        assert engine.ask("attest", spec=SPEC, adapter="verl's") == ""
    finally:
        engine.close()


def test_the_merged_checkpoint_is_the_clean_policy(
    made: tuple[Path, Path, Record], tmp_path: Path
) -> None:
    from hetero_plugin.evaluation.checkpoints import check_clean

    model, folder, wanted = made
    merged = merge(folder / "actor", model, tmp_path / "merged")
    found = hf_logprobs(hf_model(merged, "float32"), PROMPTS)
    # x W + (x A) B and x (W + A B) are rounded otherwise.
    assert gap(found, wanted["rows"]["clean 2"]) < 1e-4
    assert gap(found, wanted["rows"]["clean 0"]) > 1e-2
    assert check_clean(merged, NoiseConfig.parse(SPEC))["architectures"] == ["Qwen2ForCausalLM"]
    assert json.loads((merged / "config.json").read_text())["hidden_size"] == 64
