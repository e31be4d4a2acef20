"""LoRA in real verl on CPU: the base is noisy in both engines, the adapter is loaded beside it.

Two steps with AQN in the actor too, so that at each of them rollout and actor are one model, and a
rollout without the adapter would show. 2 min on a quiet machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hetero_plugin.verl.checkpoint import merge
from hetero_plugin.verl.launch import execute
from tests.engines.verl_run import RUNS, run_of, spec_of

pytestmark = RUNS
SPEC = spec_of("linear")
MODEL, ROLLOUT = "actor_rollout_ref.model", "actor_rollout_ref.rollout"
OVERRIDES = (
    f"{MODEL}.lora_rank=8",
    f"{MODEL}.lora_alpha=16",
    f"+{ROLLOUT}.custom.hetero_run.actor_aqn=true",
    # The reference policy is the actor without its adapter.
    "actor_rollout_ref.actor.use_kl_loss=true",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=16",
)


@pytest.mark.timeout(900)
def test_two_steps_of_an_adapter_over_a_noisy_base(miniature: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    run = run_of(
        miniature,
        tmp_path / "run",
        steps=2,
        noise=SPEC,
        learning_rate=0.03,  # one update has to show
        save_every=1,
        overrides=OVERRIDES,
    )
    first, second = [row["data"] for row in execute(run, timeout=840)]

    assert (first["hetero/sigma"], second["hetero/sigma"]) == (0.0, 0.02)
    for data in (first, second):
        for side in ("rollout", "actor"):
            sites = {k: v for k, v in data.items() if k.startswith(f"hetero/{side}/sites/")}
            assert list(sites.values()) == [14, 1], sites
        for kind in ("linear", "lm_head", "linear.grad_input", "lm_head.grad_input"):
            assert data[f"hetero/actor/realised_error/{kind}"] == pytest.approx(0.05, rel=0.05)
        # The base is frozen: no gradient of its weights is computed, so there is none to be noisy.
        assert "hetero/actor/realised_error/linear.grad_weight" not in data
        assert data["hetero/rollout_actor_logprob_gap/max"] < 2e-3
        assert data["prompt_length/max"] - data["prompt_length/min"] >= 9
    # At the first step the adapter adds 0, so a reference with the actor's noise would be at 0 too.
    assert first["actor/kl_loss"] > 1e-4

    for when, step in (("start", 0), ("end", 2)):
        name = f"attestation-{when}-step{step}.json"
        proof = json.loads((run.checkpoints / name).read_text())
        assert proof["passed"]
        found = {row["process"]: row["record"] for row in proof["records"]}
        assert set(found) == {"actor rank 0", "rollout 0"}
        assert found["rollout 0"]["adapter"] == "123"
        for record in found.values():
            assert (record["seen"], record["of"]) == (15, 15)
            assert not [row["name"] for row in record["sites"] if "lora" in row["name"]]
            assert len(record["aqn"]) == 5 and all(row["seen"] for row in record["aqn"])

    # The adapter of the second step's rollouts is no small thing beside the gap to the actor.
    ids = torch.randint(3, 13, (8, 20), generator=torch.Generator().manual_seed(0))

    def log_probs(folder: Path) -> torch.Tensor:
        with torch.no_grad():
            return AutoModelForCausalLM.from_pretrained(folder)(ids).logits.log_softmax(-1)

    folders = [run.checkpoints / f"global_step_{step}" / "actor" for step in (1, 2)]
    base, *merged = (
        run.model,
        *(merge(actor, run.model, tmp_path / actor.parent.name) for actor in folders),
    )
    one, two = (log_probs(folder) for folder in merged)
    assert (one - log_probs(base)).abs().mean() > 0.02
    assert not torch.equal(one, two)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, merged[1]))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}
