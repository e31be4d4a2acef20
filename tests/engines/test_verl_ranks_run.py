"""The recipes' regime in real verl: two FSDP2 ranks on gloo, one rollout split over both, bfloat16.

As in recipes/studies: actor and rollout compute in bfloat16 over float32 weights, padding removed,
activation checkpointing, a reference policy and its KL loss; error and AQN in both engines. What
verl's trackers were told is read back from their files. One run of two steps, 3 min and 8 GB.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hetero_plugin.verl.checkpoint import merge, rank_files
from hetero_plugin.verl.launch import MiniatureRun, execute
from tests.engines.verl_run import RUNS, run_of, spec_of

pytestmark = [*RUNS, pytest.mark.timeout(900)]

# Sigma is 0 at the first step, whose rollout and actor are then the same model.
SPEC = spec_of("all", steps=2, sigma_end=0.02)
SITES = {"linear": 14, "lm_head": 1, "norm": 5}
RATE = 1e-4
REGIME = (
    "actor_rollout_ref.model.use_remove_padding=true",
    "actor_rollout_ref.model.enable_gradient_checkpointing=true",
    "actor_rollout_ref.actor.use_kl_loss=true",
    "actor_rollout_ref.actor.kl_loss_coef=0.001",
    "actor_rollout_ref.actor.kl_loss_type=low_var_kl",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.ref.fsdp_config.param_offload=true",
    "actor_rollout_ref.rollout.enable_chunked_prefill=false",
    "trainer.logger=[console,file,tensorboard,wandb]",
)


@dataclass
class Trained:
    run: MiniatureRun
    steps: list[dict[str, float]]
    """The metrics of each step, as verl's file logger wrote them."""
    trackers: Path
    """Where the other loggers write: tensorboard/ and wandb/."""


@pytest.fixture(scope="module")
def trained(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("ranks")
    trackers = folder / "trackers"
    trackers.mkdir()
    run = run_of(
        miniature,
        folder / "run",
        steps=2,
        test_every=2,
        gpus=2,
        tensor_parallel=2,
        threads=1,
        mixed_precision="bfloat16",
        dtype="bfloat16",
        micro_batch=4,  # of a rank's 8 sequences: gradients are accumulated over two passes
        learning_rate=RATE,
        noise=SPEC,
        overrides=REGIME,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_DIR", str(trackers / "tensorboard"))
        patch.setenv("WANDB_MODE", "offline")
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(trackers))
        rows = execute(run, timeout=840)  # ends well if attested
    return Trained(run, [row["data"] for row in rows], trackers)


def test_two_ranks_train_under_the_error(trained: Trained) -> None:
    assert SPEC.aqn is not None
    sigmas = [SPEC.aqn.sigma(step) for step in range(2)]
    assert sigmas == [0, 0.02]
    assert [data["hetero/sigma"] for data in trained.steps] == sigmas
    assert [data["hetero/actor/step"] for data in trained.steps] == [0.0, 1.0]
    for data in trained.steps:
        assert data["hetero/rollout/workers"] == 2 and data["hetero/rollout/enabled"] == 1.0
        for side in ("rollout", "actor"):
            assert {kind: data[f"hetero/{side}/sites/{kind}"] for kind in SITES} == SITES
        for kind in (*SITES, "linear.grad_input", "linear.grad_weight"):
            assert data[f"hetero/actor/realised_error/{kind}"] == pytest.approx(0.05, rel=0.05)
            # Elements of a bfloat16 are up to 0.8 % apart, so that some keep their value.
            assert data[f"hetero/actor/realised_changed/{kind}"] > (0.5 if "grad" in kind else 0.9)
        # Packed, not padded: prompts differ in length.
        assert data["prompt_length/max"] - data["prompt_length/min"] >= 9
        # The reference policy is clean, the actor is not.
        assert data["actor/kl_loss"] > 0 and data["actor/grad_norm"] > 0
    said = re.findall(
        r"hetero_noise: ([^:]+): (\d+) sites .*\bspec (\w+)",
        trained.run.log.read_text(encoding="utf-8", errors="replace"),
    )
    assert {(int(sites), spec) for _, sites, spec in said} == {(20, SPEC.fingerprint)}
    assert len({who for who, _, _ in said}) == 4, said


@pytest.mark.parametrize(("when", "step"), [("start", 0), ("end", 2)])
def test_every_rank_of_both_engines_is_attested(trained: Trained, when: str, step: int) -> None:
    path = trained.run.checkpoints / f"attestation-{when}-step{step}.json"
    proof = json.loads(path.read_text(encoding="utf-8"))
    assert proof["passed"] and proof["fingerprint"] == SPEC.fingerprint
    found = {row["process"]: row["record"] for row in proof["records"]}
    assert list(found) == ["actor rank 0", "actor rank 1", "rollout 0"]
    for record in found.values():
        assert (record["seen"], record["of"], record["passed"]) == (20, 20, True)
        assert len(record["aqn"]) == 5 and all(row["seen"] for row in record["aqn"])
        assert record["dtype"] == "bfloat16", "what it computes in"
    # A replica has one record, whose every question goes to all ranks, and they agree.
    assert [[p["rank"] for p in found[who]["processes"]] for who in found] == [[0], [1], [0, 1]]
    assert found["rollout 0"]["tensor_parallel"] == 2
    pids = {process["pid"] for record in found.values() for process in record["processes"]}
    assert len(pids) == 4


def test_rollout_and_actor_meet_the_same_error(trained: Trained) -> None:
    """As close as clean engines are in bfloat16.

    verl rounds the actor's log-probabilities to bfloat16, whose numbers are 1/32 apart at those of
    about 200 like tokens: clean, that alone is 0.008 in the mean and 0.016 at most, and the two
    engines' roundings of what is before them come on top. Seen here: 0.0126 and 0.040. An error
    that the engines did not share would be 0.15, as its KL of 0.01 from the clean model says.
    """
    first, second = trained.steps
    assert first["hetero/rollout_actor_logprob_gap/mean"] < 0.02
    assert first["hetero/rollout_actor_logprob_gap/max"] < 3 / 32
    # AQN moves the rollout alone.
    gaps = [data["hetero/rollout_actor_logprob_gap/mean"] for data in (first, second)]
    assert gaps[0] < gaps[1] < 0.2


def test_two_shards_are_one_clean_model(trained: Trained, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    run = trained.run
    assert len(rank_files(run.checkpoint)) == 2
    merged = merge(run.checkpoint, run.model, tmp_path / "merged")
    before = load_file(run.model / "model.safetensors")
    after = load_file(merged / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    # AdamW moves an element by at most about its rate a step; rows in a wrong place differ by 0.1.
    assert 0 < max(moved.values()) < 3 * RATE, moved
    model = AutoModelForCausalLM.from_pretrained(merged)
    assert model.config.to_dict().get("quantization_config") is None


def test_trackers_are_told_what_the_metrics_say(trained: Trained) -> None:
    """Every ``hetero/`` number of every step is in TensorBoard's and in wandb's own file."""
    wanted = [
        {key: value for key, value in data.items() if key.startswith("hetero/")}
        for data in trained.steps
    ]
    assert "hetero/sigma" in wanted[0] and any("val_noisy" in key for key in wanted[1])
    for told in (tensorboard(trained.trackers), wandb(trained.trackers)):
        for step, data in enumerate(wanted, start=1):
            found = {key: value for key, value in told[step].items() if key.startswith("hetero/")}
            assert found == pytest.approx(data, rel=1e-6)  # TensorBoard keeps float32


def tensorboard(folder: Path) -> dict[int, dict[str, float]]:
    """Step -> scalars of the event file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    told: dict[int, dict[str, float]] = {}
    for name in events.Tags()["scalars"]:
        for scalar in events.Scalars(name):
            told.setdefault(scalar.step, {})[name] = scalar.value
    return told


def wandb(folder: Path) -> dict[int, dict[str, Any]]:
    """Step -> history of the file that an offline run leaves."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    told: dict[int, dict[str, Any]] = {}
    for data in _log_records(path.read_bytes()[7:], skipped=7):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            values = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            told[int(values["_step"])] = values
    return told


def _log_records(data: bytes, skipped: int) -> Iterator[bytes]:
    """The records of a log in LevelDB's format.

    Blocks of 32 KiB hold fragments: checksum (4 bytes), length (2), and whether it is whole (1),
    the first (2), one in the middle (3) or the last (4) of its record. No fragment crosses blocks.

    Args:
        data: the file after its own header.
        skipped: bytes of that header, which the first block counts.
    """
    at, held = 0, b""
    while at + 7 <= len(data):
        left = 32768 - (at + skipped) % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        held += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield held
            held = b""
