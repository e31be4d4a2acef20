"""TRL's real GRPOTrainer: which phase, step and σ each forward pass has, and what vLLM computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from trl import GRPOConfig, GRPOTrainer

from hetero_plugin import AQNConfig, ConfigError, NoiseConfig
from hetero_plugin.hf import HeteroNoiseCallback, disabled, phase, state_of, wrap
from hetero_plugin.hf.context import MissingRows
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save
from hetero_plugin.trl import HeteroNoiseGRPOTrainer

ROOT = Path(__file__).parents[2]
SPEC = NoiseConfig(
    preset="all-ops",
    aqn=AQNConfig(schedule="linear", sigma_start=0.05, sigma_end=0.01, total_steps=3),
)
Seen = list[tuple[str, int, str | None, float]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grpo") / "model"
    shape = MiniatureShape(layers=1, hidden=32, intermediate=64, heads=2, kv_heads=1)
    save(build_model(shape, seed=0), build_tokenizer(), folder)
    return folder


def load(checkpoint: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint)


def trainer(
    cls: Any, model: Any, checkpoint: Path, folder: Path, *, settings: Any = None, **more: Any
) -> Any:
    from transformers import AutoTokenizer

    rows = Dataset.from_list([{"prompt": f"{i}+{i}="} for i in range(10, 42)])
    arguments = dict(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        num_generations=4,
        max_completion_length=4,
        learning_rate=1e-2,
        beta=0.1,
        eval_strategy="steps",
        eval_steps=2,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    return cls(
        model,
        reward_funcs=lambda completions, **kwargs: [float(len(set(c))) for c in completions],
        args=GRPOConfig(**{**arguments, **(settings or {})}),
        train_dataset=rows,
        eval_dataset=rows.select(range(4)),
        processing_class=AutoTokenizer.from_pretrained(checkpoint),
        **more,
    )


def watch(run: Any) -> Seen:
    """What is set at each forward pass, and who runs it, as TRL's own code path tells."""
    seen: Seen = []
    state = state_of(run.model)
    generate = run.model.generate
    inside: list[bool] = []

    def generating(*args: Any, **kwargs: Any) -> Any:
        inside.append(True)
        try:
            return generate(*args, **kwargs)
        finally:
            inside.pop()

    run.model.generate = generating

    def look(*args: Any) -> None:
        who = "generate" if inside else "train" if torch.is_grad_enabled() else "score"
        sigma = 0.0 if state.aqn is None or not state.aqn.offsets.any() else state.aqn.sigma
        seen.append((who, state.step, state.phase, sigma))

    decoder = next(m for m in run.model.modules() if hasattr(m, "embed_tokens"))
    decoder.register_forward_pre_hook(look)
    return seen


def test_each_pass_has_its_phase_and_aqn_is_in_generation_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    model = wrap(load(checkpoint), SPEC, quiet=True)
    run = trainer(HeteroNoiseGRPOTrainer, model, checkpoint, tmp_path)
    seen = watch(run)
    marks: list[int] = []
    evaluate = run.evaluate

    def evaluating(*args: Any, **kwargs: Any) -> Any:
        first = len(seen)
        found = evaluate(*args, **kwargs)
        marks.extend(range(first, len(seen)))
        return found

    run.evaluate = evaluating
    run.train()
    assert SPEC.aqn is not None
    evaluated = [seen[i] for i in marks]
    trained = [one for i, one in enumerate(seen) if i not in set(marks)]
    for step in range(3):
        here = [one for one in trained if one[1] == step]
        generated = [one for one in here if one[0] == "generate"]
        others = [one for one in here if one[0] != "generate"]
        assert len(generated) == 4 and len(others) == 2  # 4 tokens; 2 micro-batches
        assert {one[2:] for one in generated} == {("rollout", SPEC.aqn.sigma(step))}
        assert {one[2:] for one in others} == {("train", 0.0)}
    assert len(trained) == 18 and evaluated
    assert {one[2:] for one in evaluated} == {("rollout", 0.0)}
    assert [e["hetero/sigma"] for e in run.state.log_history if "loss" in e][-1] == pytest.approx(
        SPEC.aqn.sigma(2)
    )
    # The reference policy is a clean model of its own; what is saved is clean.
    assert not any("hetero" in key for m in run.ref_model.modules() for key in vars(m))
    run.save_model(str(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert all(torch.equal(saved[name], p) for name, p in model.named_parameters())
    state = state_of(model)
    assert state.phase is None and state.aqn is not None and not state.aqn.offsets.any()


def test_rules_of_one_phase_act_in_it_alone(checkpoint: Path, tmp_path: Path) -> None:
    """Bound to training, generation is the clean model's: the same completions, another loss."""

    def run(spec: NoiseConfig | None) -> tuple[Any, list[Any]]:
        model = load(checkpoint)
        cls = GRPOTrainer if spec is None else HeteroNoiseGRPOTrainer
        model = model if spec is None else wrap(model, spec, quiet=True)
        settings = {"max_steps": 1, "beta": 0.0, "eval_strategy": "no"}
        made = trainer(cls, model, checkpoint, tmp_path, settings=settings)
        completions: list[Any] = []
        original = made._generate_single_turn

        def keep(*args: Any, **kwargs: Any) -> Any:
            found = original(*args, **kwargs)
            completions.append(found[0])
            return found

        made._generate_single_turn = keep
        torch.manual_seed(0)
        made.train()
        return next(e["entropy"] for e in made.state.log_history if "entropy" in e), completions

    loud = {"preset": "linear", "scale": 0.5}
    entropy, plain = run(None)
    in_training, same = run(NoiseConfig(phase="train", **loud))
    in_rollout, others = run(NoiseConfig(phase="rollout", **loud))
    silent, again = run(NoiseConfig(preset="linear", scale=0.0))
    assert same == plain and in_training != entropy
    assert others != plain
    assert again == plain and silent == entropy
    assert in_rollout != in_training


def test_the_head_is_noisy_or_its_absence_an_error(checkpoint: Path, tmp_path: Path) -> None:
    """TRL multiplies by the head's weight in a kernel of its own."""
    spec = NoiseConfig(scale=0.1, targets=["lm_head"])
    model = wrap(load(checkpoint), spec, quiet=True)
    trainer(GRPOTrainer, model, checkpoint, tmp_path)
    ids = torch.randint(3, 259, (2, 9), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :4] = -100
    with pytest.raises(MissingRows, match=r"lm_head: the forward of \S+ is trl\..* past it"):
        model(ids, labels=labels, fused_lm_head=True)
    model = wrap(load(checkpoint), spec, quiet=True)
    trainer(HeteroNoiseGRPOTrainer, model, checkpoint, tmp_path)
    noisy = model(ids, labels=labels, fused_lm_head=True)
    with disabled(model):
        fused = model(ids, labels=labels, fused_lm_head=True)
    logits = model(ids).logits[:, :-1]
    wanted = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    mask = labels[:, 1:] != -100
    torch.testing.assert_close(noisy.log_probs, wanted * mask, rtol=0, atol=1e-5)
    assert (noisy.log_probs - fused.log_probs).abs().max() > 1e-3
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1) * mask
    torch.testing.assert_close(noisy.entropy, entropy, rtol=0, atol=1e-4)
    assert torch.equal(noisy.label_mask, mask)
    torch.testing.assert_close(noisy.loss, -(wanted * mask).sum() / mask.sum())
    state_of(model).set_scale(0.0)
    silent = model(ids, labels=labels, fused_lm_head=True)
    assert torch.equal(silent.log_probs, fused.log_probs), "TRL's own arithmetic"


def test_adapters_and_their_reference(checkpoint: Path, tmp_path: Path) -> None:
    """With LoRA the reference policy is the model without adapters: clean all the same."""
    model = wrap(load(checkpoint), SPEC, quiet=True)
    lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    run = trainer(
        HeteroNoiseGRPOTrainer,
        model,
        checkpoint,
        tmp_path,
        settings={"max_steps": 1, "eval_strategy": "no"},
        peft_config=lora,
    )
    assert run.ref_model is None
    ids = torch.randint(3, 259, (2, 9), generator=torch.Generator().manual_seed(1))
    clean = load(checkpoint)
    trainer(GRPOTrainer, clean, checkpoint, tmp_path)
    give = (ids, torch.ones_like(ids), 4)
    with torch.no_grad(), phase(run.model, "train"):
        noisy = run._get_per_token_logps_and_entropies(run.model, *give)[0]
        with run.model.disable_adapter():
            reference = run._get_per_token_logps_and_entropies(run.model, *give)[0]
        wanted = run._get_per_token_logps_and_entropies(clean, *give)[0]
    assert torch.equal(reference, wanted) and not torch.equal(noisy, wanted)
    run.train()


def test_what_would_be_clean_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes a wrapped model"):
        trainer(HeteroNoiseGRPOTrainer, load(checkpoint), checkpoint, tmp_path)
    model = wrap(load(checkpoint), SPEC, quiet=True)
    with pytest.raises(ConfigError, match="brings its own HeteroNoiseCallback"):
        trainer(
            HeteroNoiseGRPOTrainer, model, checkpoint, tmp_path, callbacks=[HeteroNoiseCallback()]
        )


@pytest.mark.engine
def test_vllm_colocated_has_the_noise_of_each_step(tmp_path: Path) -> None:
    """The recipe, with vLLM: its log-probs are those of training where AQN is at 0, and differ by
    AQN where it is not; the engine says step, σ and fingerprint. (vLLM computes in bfloat16 here,
    a gap of 0.003; with error in vLLM alone it is 0.11.)"""
    spec = {"preset": "linear", "scale": 0.2}
    spec |= {"aqn": {"schedule": "global", "sigma_start": 0.2, "sigma_end": 0.05, "stages": 4}}
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    done = subprocess.run(
        [sys.executable, "recipes/trl_grpo.py", str(tmp_path), "--vllm", "--spec", str(file)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    entries = json.loads((tmp_path / "history.json").read_text())
    steps = [entry for entry in entries if "loss" in entry]
    sigmas = [0.0, pytest.approx(0.2), pytest.approx(0.1), pytest.approx(0.05)]
    assert [entry["engine"]["step"] for entry in steps] == [0, 1, 2, 3]
    assert [entry["engine"]["sigma"] for entry in steps] == sigmas
    assert [entry["hetero/sigma"] for entry in steps] == sigmas
    assert len({entry["engine"]["fingerprint"] for entry in steps}) == 1
    assert all(entry["engine"]["enabled"] and entry["engine"]["noisy"] for entry in steps)
    gaps = [entry["sampling/sampling_logp_difference/mean"] for entry in steps]
    assert gaps[0] < 0.02 and gaps[1] > 3 * gaps[0], gaps


@pytest.mark.engine
def test_prompts_of_unequal_length_have_one_noise_in_vllm_and_in_training(tmp_path: Path) -> None:
    """Prompts of 3 to 40 tokens are padded for training alone: the gap is that of clean runs."""
    from tests.trl.unequal_run import STEPS

    done = subprocess.run(
        [sys.executable, "tests/trl/unequal_run.py", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    line = next(one for one in done.stdout.splitlines() if "@@" in one)
    found = json.loads(line.partition("@@")[2])
    assert found["lengths"][0] <= 4 and found["lengths"][-1] >= 40
    assert len(found["gaps"]) == STEPS
    noisy, clean = found["gaps"][: STEPS // 2], found["gaps"][STEPS // 2 :]
    assert sum(noisy) <= 1.5 * sum(clean), found["gaps"]
