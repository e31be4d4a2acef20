"""What a small run samples follows from its seed: a seed an answer, batches in order. Seconds."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("verl")

from omegaconf import OmegaConf

from hetero_plugin.verl import replay, sampling
from hetero_plugin.verl.launch import MiniatureRun

MESSAGES = [{"role": "user", "content": "17+25="}]
PINNED = 8232430320648468658
TRAJECTORY = {"step": 3, "sample_index": 5, "rollout_n": 0, "validate": False}


def test_no_two_answers_have_one_seed() -> None:
    found = [
        sampling.seed_of(
            seed, {**TRAJECTORY, "step": step, "sample_index": index}, MESSAGES, answer
        )
        for seed in range(3)
        for step in range(5)
        for index in range(4)
        for answer in range(8)
    ]
    found.append(sampling.seed_of(0, {**TRAJECTORY, "validate": True}, MESSAGES, 0))
    found.append(sampling.seed_of(0, TRAJECTORY, [{**MESSAGES[0], "content": "17+26="}], 0))
    assert len(set(found)) == len(found) == 3 * 5 * 4 * 8 + 2
    assert all(0 <= seed < 2**63 for seed in found)
    # Runs are compared across machines and versions: these numbers stay.
    assert sampling.seed_of(0, TRAJECTORY, MESSAGES, 0) == PINNED
    numbered = {**TRAJECTORY, "sample_index": "5"}
    assert sampling.seed_of(0, numbered, MESSAGES, 0) == PINNED


def test_the_worker_asks_under_the_answers_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    async def theirs(self: Any, params: dict[str, Any], trajectory: Any, **given: Any) -> None:
        asked.append(params)

    monkeypatch.setattr(sampling._Worker, "_run_agent_loop", theirs)
    worker = object.__new__(sampling.SeededAgentLoopWorker)
    worker.rollout_config = SimpleNamespace(seed=7)  # type: ignore[assignment]
    common = {"temperature": 1.0}
    for answer in range(2):
        given = {"agent_name": "single_turn_agent", "trace": False, "raw_prompt": MESSAGES}
        asyncio.run(worker._run_agent_loop(common, TRAJECTORY, session_id=answer, **given))
    wanted = [sampling.seed_of(7, TRAJECTORY, MESSAGES, answer) for answer in range(2)]
    assert [params["seed"] for params in asked] == wanted
    assert common == {"temperature": 1.0}, "shared by the answers to a prompt"


def test_the_worker_starts_in_another_process(tmp_path: Path) -> None:
    """As Ray sends it there: most of what it inherits by value, itself by name."""
    import ray
    from ray import cloudpickle

    remote: Any = ray.remote(sampling.SeededAgentLoopWorker)
    sent = remote.__ray_metadata__.modified_class
    (tmp_path / "worker").write_bytes(cloudpickle.dumps(sent))
    code = (
        "import sys, types, pathlib\n"
        "from ray import cloudpickle\n"
        "worker = cloudpickle.loads(pathlib.Path(sys.argv[1]).read_bytes())\n"
        "from verl.experimental.agent_loop import AgentLoopWorker\n"
        "from verl.trainer.ppo.v1 import agent_loop_tq\n"
        "AgentLoopWorker.__init__ = lambda self, *given: setattr(self, 'given', given)\n"
        "agent_loop_tq.tq = types.SimpleNamespace(init=lambda: None)\n"
        "assert worker('config', 'client').given == ('config', 'client')\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "worker")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_batch_is_in_the_order_in_which_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = object.__new__(replay.FastReplayBuffer)
    monkeypatch.setattr(
        "verl.trainer.ppo.v1.replay_buffer.tq", SimpleNamespace(kv_clear=lambda **_: None)
    )
    prompts = ["d", "a", "c", "b"]  # as they were asked for
    buffer.prompt_global_steps = {"train": dict.fromkeys(prompts, 1)}
    keys = [f"{uid}_{answer}_0" for uid in prompts for answer in range(12)]
    orders = []
    for seed in range(5):
        arrived = random.Random(seed).sample(keys, len(keys))
        buffer.partitions = {"train": {key: {"seq_len": len(key)} for key in arrived}}
        chosen, snapshot, _ = buffer._select_prompt_uids("train", set(prompts), 3)
        batch = buffer._materialize_batch("train", chosen, snapshot)
        orders.append((chosen, batch.keys))
    assert orders == [(["d", "a", "c"], keys[:36])] * 5


def test_what_vllm_draws_for_an_answer_is_not_its_neighbours_matter() -> None:
    """vLLM's own sampler on a CPU: five tokens of each of 12 answers, alone and in any batch."""
    pytest.importorskip("vllm")
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("this is vLLM's CPU path")
    current_platform.import_kernels()
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    sampler, rows = TopKTopPSampler(), 12
    logits = torch.randn(5, rows, 50, generator=torch.Generator().manual_seed(0))

    def drawn(batch: list[int]) -> dict[int, list[int]]:
        seeds = {i: sampling.seed_of(0, TRAJECTORY, MESSAGES, row) for i, row in enumerate(batch)}
        generators = {i: torch.Generator().manual_seed(seed) for i, seed in seeds.items()}
        found: dict[int, list[int]] = {row: [] for row in batch}
        for step in logits:
            tokens, _ = sampler(step[batch].clone(), generators, None, None)
            for row, token in zip(batch, tokens.tolist(), strict=True):
                found[row].append(int(token))
        return found

    together = drawn(list(range(rows)))
    assert len({tuple(tokens) for tokens in together.values()}) == rows
    for batch in ([3], [7, 0, 11], random.Random(1).sample(range(rows), rows)):
        assert drawn(batch) == {row: together[row] for row in batch}


def test_small_runs_name_both(tmp_path: Path) -> None:
    run = MiniatureRun(
        model=tmp_path,
        train_files=tmp_path / "t",
        val_files=tmp_path / "v",
        output=tmp_path,
        steps=1,
    )
    words = dict(word.lstrip("+").split("=", 1) for word in run.words)
    rollout = OmegaConf.create(words)
    assert rollout["trainer.v1.sampler.custom_sampler.name"] == "FastReplayBuffer"
    name = words["actor_rollout_ref.rollout.agent.agent_loop_manager_class"]
    assert name == f"{sampling.__name__}.{sampling.SeededAgentLoopManager.__name__}"
    assert words["actor_rollout_ref.rollout.enable_chunked_prefill"] == "false"
