"""Family × what people do with a model × {scale 0, disabled, wrong phase}: the clean model, to the
bit, in outputs, gradients and state dict; and with the noise on, another result."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hetero_plugin import AQN, AQNConfig, NoiseConfig
from hetero_plugin.hf import disabled, phase, state_of, wrap
from tests.hf.families import FAMILY, make_family, tokens

Result = dict[str, torch.Tensor]
AQN_CONFIG = AQNConfig(schedule="constant", sigma_start=0.05, total_steps=4)


def rules(family: str, **changes: Any) -> NoiseConfig:
    kinds = ["linear", "norm", "activation", "attention"]
    kinds += ["router"] if family.endswith("_moe") else []
    rule = {"targets": kinds, "scale": 0.1, **changes}
    # A second rule, on inputs, whose operators come before the layer's own.
    inputs = {**rule, "targets": ["linear", "norm"], "point": "input"}
    return NoiseConfig(rules=[rule, inputs], aqn=AQN_CONFIG)


@contextmanager
def scale_0(family: str, model: Any) -> Iterator[None]:
    wrap(model, rules(family, scale=0.0), quiet=True)
    yield


@contextmanager
def off(family: str, model: Any) -> Iterator[None]:
    wrap(model, rules(family), quiet=True)
    AQN(model).step(1)
    with disabled(model):
        yield


@contextmanager
def wrong_phase(family: str, model: Any) -> Iterator[None]:
    wrap(model, rules(family, phase="rollout"), quiet=True)
    with phase(model, "train"):
        yield


@contextmanager
def clean(family: str, model: Any) -> Iterator[None]:
    yield


@contextmanager
def noisy(family: str, model: Any) -> Iterator[None]:
    wrap(model, rules(family), quiet=True)
    AQN(model).step(1)
    yield


State = Callable[[str, Any], Any]


def step(model: Any, *batches: torch.Tensor) -> Result:
    """Logits, gradients and state dict after forward and backward passes."""
    found = {}
    for i, ids in enumerate(batches):
        out = model(ids, labels=ids)
        out.loss.backward()
        found[f"logits {i}"] = out.logits.detach()
    found |= {f"grad {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return found | {f"state {n}": v.clone() for n, v in model.state_dict().items()}


def plain(family: str, state: State, folder: Path) -> Result:
    model = make_family(family).train()
    with state(family, model):
        return step(model, *(tokens(seed=i) for i in range(8)))


def bfloat16(family: str, state: State, folder: Path) -> Result:
    model = make_family(family, torch.bfloat16).train()
    with state(family, model):
        return step(model, tokens())


def autocast(family: str, state: State, folder: Path) -> Result:
    model = make_family(family).train()
    with state(family, model), torch.autocast("cpu", torch.bfloat16):
        return step(model, tokens())


def tied(family: str, state: State, folder: Path) -> Result:
    model = make_family(family, tie_word_embeddings=True).train()
    with state(family, model):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        return step(model, tokens())


def checkpointed(reentrant: bool) -> Callable[[str, State, Path], Result]:
    def run(family: str, state: State, folder: Path) -> Result:
        model = make_family(family).train()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with state(family, model):
            return step(model, tokens(), tokens(seed=2))

    return run


def generate(family: str, state: State, folder: Path) -> Result:
    model = make_family(family)
    with state(family, model):
        out = model.generate(
            tokens(length=5),
            max_new_tokens=6,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return {"sequences": out.sequences, "logits": torch.stack(out.logits)}


def copied(family: str, state: State, folder: Path) -> Result:
    model = make_family(family)
    with state(family, model):
        return step(copy.deepcopy(model), tokens())


def pickled(family: str, state: State, folder: Path) -> Result:
    model = make_family(family)
    with state(family, model):
        return step(pickle.loads(pickle.dumps(model)), tokens())


def saved(family: str, state: State, folder: Path) -> Result:
    """What from_pretrained gives back is unwrapped: it is clean even if what was saved was not."""
    model = make_family(family)
    with state(family, model):
        model.save_pretrained(folder)
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert not any("hetero" in key for module in again.modules() for key in vars(module))
    return step(again, tokens())


def adapted(family: str, state: State, folder: Path) -> Result:
    """LoRA: wrapped after get_peft_model, the base alone noisy."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    lora = LoraConfig(r=4, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    model = get_peft_model(make_family(family), lora)
    with state(family, model):
        return step(model, tokens())


def on_meta(family: str, state: State, folder: Path) -> Result:
    with torch.device("meta"):
        model = make_family(family)
    source = make_family(family)
    with state(family, model):
        model.to_empty(device="cpu")
        model.load_state_dict(source.state_dict())
        for name, buffer in source.named_buffers():  # rotary tables are not in the state dict
            model.get_buffer(name).copy_(buffer)
        return step(model, tokens())


OPTIONS = {
    "micro-batches": plain,
    "bfloat16": bfloat16,
    "autocast": autocast,
    "tied": tied,
    "reentrant": checkpointed(True),
    "non-reentrant": checkpointed(False),
    "generate": generate,
    "deepcopy": copied,
    "pickle": pickled,
    "save": saved,
    "meta": on_meta,
    "lora": adapted,
}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma3_text", "qwen3_moe"])
def test_a_compiled_model_is_clean_when_off_and_never_made_anew(family: str) -> None:
    """Outputs only: compiled code keeps the operators, whose nodes may reorder gradient sums. The
    other families' operators are among those of these two, and tests/hf/test_wrap.py has Qwen2."""
    torch._dynamo.reset()

    def run(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model(tokens()).logits

    def make(model: Any) -> Any:
        return torch.compile(model, backend="eager", fullgraph=True)  # fails at a graph break

    wanted = run(make(make_family(family)))
    model = wrap(make_family(family), rules(family, phase="rollout"), quiet=True)
    state, fast = state_of(model), make(model)
    state.set_phase("rollout")
    noisy = run(fast)
    assert not torch.equal(noisy, wanted)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with phase(model, "train"):
        assert torch.equal(run(fast), wanted)
    with disabled(model):
        assert torch.equal(run(fast), wanted)
    AQN(model).step(1)
    assert not torch.equal(run(fast), noisy)
    AQN(model).off()
    assert torch.equal(run(fast), noisy)
    state.set_scale(0.0)
    assert torch.equal(run(fast), wanted)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("family", FAMILY)
def test_off_is_clean(family: str, option: str, tmp_path: Path) -> None:
    run = OPTIONS[option]
    wanted = run(family, clean, tmp_path)
    assert wanted
    for state in (scale_0, off, wrong_phase):
        found = run(family, state, tmp_path)
        assert found.keys() == wanted.keys(), state.__name__
        wrong = [name for name, value in wanted.items() if not torch.equal(found[name], value)]
        assert not wrong, (state.__name__, wrong)
    found = run(family, noisy, tmp_path)
    assert found.keys() == wanted.keys()
    same = [name for name, value in wanted.items() if torch.equal(found[name], value)]
    if option == "save":
        assert len(same) == len(wanted), "what is saved is clean"
    else:
        assert all(name.startswith(("state ", "sequences")) for name in same), same
