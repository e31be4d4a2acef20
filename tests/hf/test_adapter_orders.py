"""PEFT's operations and wrap in every order: whenever wrap comes, the noise is the same.

A program is what somebody does to a model with PEFT. With wrap before, between or after its steps,
and a forward pass after each, the outputs at the end are to the bit those of wrapping what the
clean program gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import nn

from hetero_plugin import NoiseConfig, disabled, state_of, unwrap, update, wrap
from tests.hf.conftest import tiny

SPEC = NoiseConfig(scale=0.1, targets=["linear", "lm_head", "attention", "norm", "activation"])
IDS = torch.randint(1, 272, (2, 9), generator=torch.Generator().manual_seed(1))
Step = Callable[[Any, Any], Any]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def config(saved: Any, **changes: Any) -> Any:
    targets = ["q_proj", "o_proj", "down_proj"]
    settings = dict(r=4, target_modules=targets, init_lora_weights=False, modules_to_save=saved)
    return LoraConfig(**{**settings, **changes})


def trained(model: Any) -> Any:
    """Whole layers that PEFT trains have other weights than what they were copied from."""
    for path, module in model.named_modules():
        if ".modules_to_save." in path and not hasattr(module, "trained"):
            for weight in module.parameters(recurse=False):
                module.trained = True
                weight.data *= 1.5
    return model.eval()


def get(model: Any, saved: Any) -> Any:
    torch.manual_seed(2)
    return trained(get_peft_model(model, config(saved)))


def inject(model: Any, saved: Any) -> Any:
    torch.manual_seed(2)
    model.add_adapter(config(saved), adapter_name="default")
    return trained(model)


def add(model: Any, saved: Any) -> Any:
    torch.manual_seed(3)
    other = config(saved, target_modules=["o_proj", "gate_proj"])
    if hasattr(model, "peft_config") and hasattr(model, "base_model_torch_dtype"):
        model.add_adapter("other", other)
    else:
        model.add_adapter(other, adapter_name="other")
    return trained(model)


def weighted(model: Any, saved: Any) -> Any:
    torch.manual_seed(4)
    model.add_adapter("other", config(None))
    model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "mix", combination_type="linear")
    model.set_adapter("mix")
    return trained(model)


def _(call: Callable[[Any], Any], name: str) -> Step:
    def step(model: Any, saved: Any) -> Any:
        made = call(model)
        return model if made is None or not isinstance(made, nn.Module) else made

    step.__name__ = name
    return step


other = _(lambda m: m.set_adapter("other"), "other")
default = _(lambda m: m.set_adapter("default"), "default")
merge = _(lambda m: m.merge_adapter(), "merge")
unmerge = _(lambda m: m.unmerge_adapter(), "unmerge")
merged = _(lambda m: m.merge_and_unload(), "merged")
unload = _(lambda m: m.unload(), "unload")
base = _(lambda m: m.get_base_model(), "base")
delete = _(lambda m: m.delete_adapter("default"), "delete")
off = _(lambda m: m.disable_adapters(), "off")
on = _(lambda m: m.enable_adapters(), "on")
kbit = _(lambda m: prepare_model_for_kbit_training(m, use_gradient_checkpointing=False), "kbit")
layers_off = _(lambda m: m.base_model.disable_adapter_layers(), "layers_off")
layers_on = _(lambda m: m.base_model.enable_adapter_layers(), "layers_on")

PROGRAMS: list[list[Step]] = [
    [get, merge, unmerge, merge],
    [get, merged, get],
    [get, unload, get, base],
    [get, add, other, delete, base],
    [get, add, other, merged],
    [get, add, other, default, unload],
    [get, add, layers_off, layers_on, other],
    [get, weighted, merged],
    [kbit, get, merged],
    [inject, off, on],
    [inject, add, other, delete],
]
SAVED: dict[str, list[str] | None] = {
    "lora": None,
    "head": ["lm_head"],
    "norm": ["norm"],
    "block": ["self_attn"],
    "projection": ["k_proj", "up_proj"],
}
EVERY = [("lora", torch.float32, False), ("head", torch.bfloat16, False)]
SOME = [
    ("lora", torch.bfloat16, True),
    ("head", torch.float32, True),
    ("norm", torch.float32, False),
    ("block", torch.float32, False),
    ("projection", torch.float32, False),
]
CASES = [(p, *way) for p in PROGRAMS for way in EVERY]
CASES += [(p, *way) for p in PROGRAMS[1:9:3] for way in SOME]


def names(program: list[Step]) -> str:
    return "-".join(step.__name__ for step in program)


def run(program: list[Step], at: int | None, saved: Any, fresh: Any, spec: Any = SPEC) -> Any:
    """The model after a program with wrap before its step number ``at``; None: without."""
    model = fresh()
    for i, step in enumerate(program):
        if i == at:
            wrap(model, spec, quiet=True)
        model = step(model, saved)
        if at is not None and i >= at:
            logits(model)
    return wrap(model, spec, quiet=True) if at == len(program) else model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("program", "name", "dtype", "tied"),
    CASES,
    ids=[f"{names(p)}-{n}-{str(d)[6:]}{'-tied' * t}" for p, n, d, t in CASES],
)
def test_wrap_may_come_at_any_time(
    program: list[Step], name: str, dtype: torch.dtype, tied: bool
) -> None:
    """The same bits, clean under `disabled`, and unwrap, update and wrap work on what there is."""
    saved = SAVED[name]

    def fresh() -> Any:
        return tiny(dtype, tie_word_embeddings=tied, num_hidden_layers=1)

    clean = logits(run(program, None, saved, fresh))
    wanted = logits(run(program, len(program), saved, fresh))
    assert not torch.equal(wanted, clean)
    for at in range(len(program)):
        model = run(program, at, saved, fresh)
        assert torch.equal(logits(model), wanted), f"wrap before step {at}"
        with disabled(model):
            assert torch.equal(logits(model), clean)
        if at % 2:
            update(model, SPEC)
            assert torch.equal(logits(model), wanted)
        below = next(m for m in model.modules() if type(m).__name__.endswith("Attention"))
        assert state_of(below) is state_of(model)
        unwrap(model)
        assert torch.equal(logits(model), clean)
        wrap(model, SPEC, quiet=True)
        assert torch.equal(logits(model), wanted)
