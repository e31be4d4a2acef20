"""Real verl on CPU: Ray, vLLM's asynchronous rollout, FSDP2 on gloo; noise in both engines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hetero_plugin.hf import state_of, wrap
from hetero_plugin.verl.checkpoint import merge
from hetero_plugin.verl.launch import MiniatureRun, execute
from tests.engines.verl_run import RUNS, run_of, spec_of
from tests.faults.registry import Fault, everything

pytestmark = RUNS

# Sigma differs at each step, so a step that is off by one shows in the metrics. At the first it is
# 0: rollout and actor are the same model there.
SPEC = spec_of("all")
FAULTS = [one for one in everything() if one.engine == "verl"]
CORE = "val-core/hetero_noise/addition/acc/mean@1"
NOISY = "hetero/val_noisy/hetero_noise/addition/acc/mean@1"


@dataclass
class Noisy:
    """A run of three noisy steps, AQN's σ being 0 in the first."""

    run: MiniatureRun
    seen: list[int]
    """The steps whose metrics were told while it ran."""
    steps: list[dict[str, float]]
    """The metrics of each."""
    dumps: Path
    """The validations' answers."""


@pytest.fixture(scope="module")
def noisy(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Noisy:
    folder = tmp_path_factory.mktemp("noisy")
    dumps, seen = folder / "dumps", list[int]()
    overrides = (f"trainer.validation_data_dir={dumps}",)
    run = run_of(miniature, folder / "run", steps=3, noise=SPEC, test_every=3, overrides=overrides)
    rows = execute(run, lambda step, _: seen.append(step), timeout=840)  # ends well if attested
    return Noisy(run, seen, [row["data"] for row in rows], dumps)


@pytest.mark.compat("verl miniature")
@pytest.mark.timeout(900)
def test_three_noisy_steps(noisy: Noisy, tmp_path: Path) -> None:
    run, dumps = noisy.run, noisy.dumps
    assert noisy.seen == [1, 2, 3]

    # AQN follows the step; the actor was at the step of its rollouts.
    assert SPEC.aqn is not None
    sigmas = [SPEC.aqn.sigma(step) for step in range(3)]
    assert sigmas[0] == 0 < sigmas[2] < sigmas[1]
    assert [data["hetero/sigma"] for data in noisy.steps] == pytest.approx(sigmas)
    assert [data["hetero/actor/step"] for data in noisy.steps] == [0.0, 1.0, 2.0]
    for data in noisy.steps:
        assert data["hetero/scale"] == 0.05
        for side in ("rollout", "actor"):
            sites = {k: data[f"hetero/{side}/sites/{k}"] for k in ("linear", "lm_head", "norm")}
            assert sites == {"linear": 14, "lm_head": 1, "norm": 5}
        assert data["hetero/rollout/enabled"] == 1.0
        for kind in ("linear", "lm_head", "norm", "linear.grad_input", "linear.grad_weight"):
            assert data[f"hetero/actor/realised_error/{kind}"] == pytest.approx(0.05, rel=0.05)
            # Gradients of padding are zero and stay so.
            assert data[f"hetero/actor/realised_changed/{kind}"] > (0.5 if "grad" in kind else 0.99)
    for data in noisy.steps[1:]:
        # AQN moves the rollout alone (that is its point), by a little; see the next test for none.
        assert 0 < data["hetero/rollout_actor_logprob_gap/mean"] < 0.2
    last = noisy.steps[-1]
    assert 0.0 <= last[CORE] <= 1.0 and 0.0 <= last[NOISY] <= 1.0
    # The checkpoint knows its noise, for the run that resumes from it.
    record = json.loads((run.checkpoint.parent / "hetero_noise.json").read_text())
    assert record["noisy"] and record["fingerprint"] == SPEC.fingerprint

    # Each noisy process said so once, all with this specification.
    log = run.log.read_text(encoding="utf-8", errors="replace")
    said = re.findall(r"hetero_noise: ([^:]+): (\d+) sites .*\bspec (\w+)", log)
    assert {who.split()[0] for who, _, _ in said} == {"verl", "engine"}
    assert len(said) == 2
    assert {(int(sites), spec) for _, sites, spec in said} == {(20, SPEC.fingerprint)}

    # Both engines proved their noise before the first step and after the last.
    for when, step in (("start", 0), ("end", 3)):
        name = f"attestation-{when}-step{step}.json"
        proof = json.loads((run.output / "checkpoints" / name).read_text())
        assert proof["passed"] and proof["fingerprint"] == SPEC.fingerprint
        found = {row["process"]: row["record"] for row in proof["records"]}
        assert {who: (r["seen"], r["of"], r["passed"]) for who, r in found.items()} == {
            "actor rank 0": (20, 20, True),
            "rollout 0": (20, 20, True),
        }
        assert found["actor rank 0"]["engine"] == "verl-fsdp2"
        assert all(row["seen"] for r in found.values() for row in r["aqn"])

    # What was saved is a clean model, and another one than training started from.
    merged = merge(run.checkpoint, run.model, tmp_path / "merged")
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    before = load_file(run.model / "model.safetensors")
    after = load_file(merged / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    model = AutoModelForCausalLM.from_pretrained(merged)
    assert model.config.to_dict().get("quantization_config") is None

    # Each validation's answers are those of the model that it is named after, and of no other. In
    # noise step 3, which is that of the rollouts that would have come next.
    assert sorted(path.name for path in dumps.iterdir()) == ["clean", "noisy"]
    answers = {name: read_answers(dumps / name / "3.jsonl") for name in ("clean", "noisy")}
    expected = {"clean": greedy(model, merged, answers["clean"])}
    wrap(model, SPEC, quiet=True)
    state = state_of(model)
    state.set_phase("rollout")
    state.set_step(3)
    expected["noisy"] = greedy(model, merged, answers["noisy"])
    alike = {
        (a, b): sum(answers[a][prompt] == expected[b][prompt] for prompt in answers[a])
        for a in answers
        for b in expected
    }
    assert all(len(found) == 16 for found in answers.values())
    # In float32 two logits hardly ever lie so close that the engines choose otherwise.
    assert min(alike["clean", "clean"], alike["noisy", "noisy"]) >= 15, alike
    assert max(alike["clean", "noisy"], alike["noisy", "clean"]) <= 12, alike


def read_answers(path: Path) -> dict[str, str]:
    """Prompt -> answer of a validation's dump."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["input"]: row["output"] for row in rows}


def greedy(model: Any, folder: Path, prompts: Iterable[str]) -> dict[str, str]:
    """The likeliest answers of up to 8 tokens, each token by a pass over all before it."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {}
    for prompt in prompts:
        ids = start = tokenizer(prompt, return_tensors="pt").input_ids
        for _ in range(8):
            with torch.no_grad():
                logits = model(input_ids=ids, use_cache=False).logits[:, -1, : len(tokenizer)]
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
            if ids[0, -1] == tokenizer.eos_token_id:
                break
        found[prompt] = tokenizer.decode(ids[0, start.shape[1] :], skip_special_tokens=True)
    return found


@pytest.fixture(scope="module")
def clean_run(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """(the log, the metrics of its step) of a run without noise."""
    run = run_of(miniature, tmp_path_factory.mktemp("clean") / "run", steps=1)
    data = execute(run, timeout=840)[-1]["data"]
    return run.log.read_text(encoding="utf-8", errors="replace"), data


@pytest.mark.compat("verl miniature", short=True)
@pytest.mark.timeout(900)
def test_rollout_and_actor_meet_the_same_error(noisy: Noisy) -> None:
    """Without AQN the noisy engines are as close as clean ones; the noise is 100 times larger.

    The prompts have 3 to 40 tokens, so that each token's error is found by what it is and where in
    its own sequence, and not by where it lies in a padded batch.
    """
    first = noisy.steps[0]
    assert first["hetero/rollout_actor_logprob_gap/max"] < 2e-3
    assert first["training/rollout_probs_diff_max"] < 1e-4
    assert first["prompt_length/max"] - first["prompt_length/min"] >= 9


@pytest.mark.compat("verl miniature")
@pytest.mark.timeout(1800)
def test_noisy_engines_are_no_further_apart_than_clean_ones(
    noisy: Noisy, clean_run: tuple[str, Any]
) -> None:
    name = "training/rollout_probs_diff_mean"
    # Below 2^-24 both are the rounding of float32 probabilities, and their ratio is chance.
    assert noisy.steps[0][name] <= max(1.5 * clean_run[1][name], 2.0**-24)


@pytest.mark.compat("verl miniature")
@pytest.mark.timeout(900)
def test_a_clean_run_is_clean_and_says_so(clean_run: tuple[str, Any]) -> None:
    log, data = clean_run
    assert not [name for name in data if name.startswith("hetero/")]
    assert "hetero_noise: rollout worker 0.0: clean" in log
    assert not re.search(r"hetero_noise: .* sites ", log)
    # Weights were synced into a live engine: rollout and actor are the same model.
    assert data["training/rollout_probs_diff_max"] < 1e-4


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS, ids=[one.name.replace(" ", "-") for one in FAULTS])
def test_fault_is_noticed(fault: Fault, miniature: Path, tmp_path: Path) -> None:
    from hetero_plugin.verl.launch import LaunchError

    def attempt(*overrides: str) -> str:
        run = run_of(miniature, tmp_path / "run", steps=1, noise=SPEC, overrides=overrides)
        with pytest.raises(LaunchError) as error:
            execute(run, timeout=560)
        assert not run.checkpoint.exists()  # nothing was trained
        return str(error.value)

    print(f"{fault.name}: {fault.run(attempt)}")
