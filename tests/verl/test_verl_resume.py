"""A checkpoint knows its noise, and training goes on under no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")
from omegaconf import OmegaConf

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.verl import resume
from hetero_plugin.verl.settings import RunNoise, RunOptions

SPEC: dict[str, Any] = {
    "scale": 0.05,
    "seed": 3,
    "aqn": {"schedule": "constant", "sigma_start": 0.01},
}


def noise(actor_aqn: bool = False, **changes: Any) -> RunNoise:
    config = NoiseConfig.parse({**SPEC, **changes})
    return RunNoise(config, RunOptions(actor_aqn=actor_aqn))


def trained(folder: Path, step: int, under: RunNoise | None, *, record: bool = True) -> Path:
    """A run's folder as verl leaves it after ``step`` steps."""
    checkpoint = folder / f"global_step_{step}"
    checkpoint.mkdir(parents=True)
    if record:
        resume.write(checkpoint, under)
    (folder / "latest_checkpointed_iteration.txt").write_text(str(step))
    return checkpoint


def trainer(folder: Path, mode: str = "auto", **values: Any) -> Any:
    return OmegaConf.create({"resume_mode": mode, "default_local_dir": str(folder), **values})


def test_the_same_noise_goes_on(tmp_path: Path) -> None:
    trained(tmp_path, 2, noise())
    resume.check(trainer(tmp_path), noise())
    # Names in another order are the same specification.
    resume.check(
        trainer(tmp_path), RunNoise(NoiseConfig.parse(noise().config.canonical), RunOptions())
    )


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (noise(seed=4), "spec.seed: 3 then, 4 now"),
        (noise(scale=0.1), r"spec.rules\[0\].scale: 0.05 then, 0.1 now"),
        (noise(aqn=None), "spec.aqn: .* then, null now"),
        (
            noise(aqn={"schedule": "constant", "sigma_start": 0.02}),
            "spec.aqn.sigma_start: 0.01 then, 0.02 now",
        ),
        (noise(resample="never"), 'spec.resample: "step" then, "never" now'),
        (noise(actor_aqn=True), "actor_aqn False then, True now"),
        (None, "was trained with noise .* this run is clean"),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "resume_path"])
def test_other_noise_is_refused(
    tmp_path: Path, now: RunNoise | None, words: str, mode: str
) -> None:
    checkpoint = trained(tmp_path, 2, noise())
    with pytest.raises(ConfigError, match=f"global_step_2 .*{words}"):
        resume.check(trainer(tmp_path, mode, resume_from_path=f"{checkpoint}/"), now)


def test_a_clean_checkpoint_stays_clean(tmp_path: Path) -> None:
    trained(tmp_path, 2, None)
    resume.check(trainer(tmp_path), None)
    with pytest.raises(ConfigError, match="was trained clean, and this run is with noise"):
        resume.check(trainer(tmp_path), noise())


def test_without_a_record_noise_is_not_known(tmp_path: Path) -> None:
    trained(tmp_path, 2, None, record=False)
    resume.check(trainer(tmp_path), None)
    with pytest.raises(ConfigError, match="noise that it was trained under is not known"):
        resume.check(trainer(tmp_path), noise())
    # An attestation beside it, as runs left it before there were records, is one.
    proof = tmp_path / "attestation-start-step0.json"
    proof.write_text(json.dumps({"fingerprint": noise().config.fingerprint}))
    resume.check(trainer(tmp_path), noise())
    for other in (noise(seed=4), None):
        with pytest.raises(ConfigError, match="attestations beside it are of specification"):
            resume.check(trainer(tmp_path), other)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"noisy": "yes"}'])
def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (trained(tmp_path, 2, None) / resume.RECORD).write_text(text)
    with pytest.raises(ConfigError, match="not known"):
        resume.check(trainer(tmp_path), noise())


def test_the_checkpoint_is_the_one_that_verl_will_load(tmp_path: Path) -> None:
    from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

    def same() -> bool:
        found = find_latest_ckpt_path(str(tmp_path))
        return resume.resumed_from(trainer(tmp_path)) == (None if found is None else Path(found))

    assert same() and resume.resumed_from(trainer(tmp_path)) is None
    trained(tmp_path, 2, None)
    trained(tmp_path, 10, None)
    assert same() and resume.resumed_from(trainer(tmp_path)) == tmp_path / "global_step_10"
    (tmp_path / resume.TRACKER).write_text("4")
    assert same() and resume.resumed_from(trainer(tmp_path)) is None


def test_a_run_that_does_not_resume_looks_at_nothing(tmp_path: Path) -> None:
    trained(tmp_path, 2, noise())
    resume.check(trainer(tmp_path, "disable"), noise(seed=4))
    resume.check(trainer(tmp_path / "new"), noise(seed=4))


def saved(folder: Path, step: int, *, whole: bool = True) -> None:
    """A checkpoint as verl leaves it; not whole: stopped before what it writes last."""
    actor = trained(folder, step, noise()) / "actor"
    actor.mkdir()
    (actor / "model_world_size_1_rank_0.pt").touch()
    if whole:
        (actor.parent / "data.pt").touch()


@pytest.mark.parametrize(
    ("tracker", "written", "goes_on", "tracked"),
    [
        ("4", {1, 2, 3, 4}, -1, "4"),
        ("4", {1, 2, 3}, 2, "2"),  # stopped between the checkpoint and its metrics
        ("4", {1}, 0, None),
        ("", {1, 2, 3, 4, 5}, 4, "4"),  # stopped while it noted which is the latest
        ("", {1, 2, 3}, 2, "2"),
        (None, {1, 2}, -1, None),
    ],
)
def test_training_goes_on_from_the_last_step_that_has_its_metrics(
    tmp_path: Path, tracker: str | None, written: set[int], goes_on: int, tracked: str | None
) -> None:
    from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

    saved(tmp_path, 2)
    saved(tmp_path, 4)
    saved(tmp_path, 5, whole=False)
    (tmp_path / "global_step_3").mkdir()
    path = tmp_path / resume.TRACKER
    path.unlink()
    if tracker is not None:
        path.write_text(tracker)
    assert resume.go_back(tmp_path, written) == goes_on
    found = find_latest_ckpt_path(str(tmp_path))
    assert found == (None if tracked is None else str(tmp_path / f"global_step_{tracked}"))
    assert {one.name for one in tmp_path.glob("global_step_*")} == {
        f"global_step_{step}" for step in (2, 3, 4, 5)
    }


def actor(model: Path, under: RunNoise) -> Any:
    """verl's FSDP2 engine of one rank, noisy; a process group has to be there."""
    import verl.workers.engine.fsdp.transformer_impl  # noqa: F401  # first, for the patches
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig

    from hetero_plugin.verl import active
    from hetero_plugin.verl.engine import NoisyFSDPEngineCPU

    full = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    engine = NoisyFSDPEngineCPU(
        model_config=HFModelConfig(
            path=str(model),
            load_tokenizer=False,
            use_remove_padding=False,
            enable_gradient_checkpointing=False,
            override_config={"attn_implementation": "sdpa"},
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2", model_dtype="fp32", mixed_precision=full, use_torch_compile=False
        ),
        # A rate that changes with the step, so that the schedule has to come back too.
        optimizer_config=FSDPOptimizerConfig(
            lr=0.01, lr_scheduler_type="cosine", total_training_steps=6
        ),
        checkpoint_config=CheckpointConfig(
            save_contents=["model", "optimizer", "extra"],
            load_contents=["model", "optimizer", "extra"],
        ),
    )
    active._current = under
    try:
        engine.initialize()
    finally:
        active._current = None
    return engine


def update(engine: Any, step: int) -> None:
    """One update on tokens of its own, as a run makes that of a step: the rate moves after it."""
    import torch

    from hetero_plugin.verl import active

    active.set_actor_step(step)
    with engine.train_mode():
        ids = torch.randint(0, 128, (3, 11), generator=torch.Generator().manual_seed(step))
        logits = engine.module(input_ids=ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        ).backward()
        engine.optimizer_step()
        engine.lr_scheduler_step()


def test_an_actor_that_was_saved_and_loaded_takes_the_same_steps(tmp_path: Path) -> None:
    """Bit for bit, in verl's FSDP2 on a CPU, under error in both directions and AQN."""
    import torch
    import torch.distributed as dist
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from hetero_plugin.verl import active

    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    Qwen2ForCausalLM(shape).save_pretrained(tmp_path / "model")
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("cpu:gloo", init_method=store, rank=0, world_size=1)
    before = list(active._actors)

    def weights(engine: Any) -> dict[str, torch.Tensor]:
        state = engine.module.state_dict()
        return {name: value.full_tensor().clone() for name, value in state.items()}

    try:
        whole = actor(tmp_path / "model", noise(actor_aqn=True))
        for step in range(2):
            update(whole, step)
        whole.save_checkpoint(str(tmp_path / "global_step_2" / "actor"), global_step=2)
        saved_weights = weights(whole)
        for step in (2, 3):
            update(whole, step)
        resumed = actor(tmp_path / "model", noise(actor_aqn=True))
        resumed.load_checkpoint(str(tmp_path / "global_step_2" / "actor"))
        assert all(torch.equal(saved_weights[n], v) for n, v in weights(resumed).items())
        for step in (2, 3):
            update(resumed, step)
        one, two = weights(whole), weights(resumed)
        assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
        assert not all(torch.equal(one[n], saved_weights[n]) for n in one)
    finally:
        active._actors[:] = before
        dist.destroy_process_group()
