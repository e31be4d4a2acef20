"""A wrapped model is copied or sent, then set; and what off means while something is set."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from hetero_plugin import AQN, AQNConfig, NoiseConfig, disabled, wrap
from hetero_plugin.hf import phase, set_step, state_of, update
from hetero_plugin.operator import UnsupportedTensor
from tests.faults.models import IDS, gradients, logits, said, tiny

AQN_CONFIG = AQNConfig(schedule="constant", sigma_start=0.1)
SPEC = NoiseConfig(
    rules=[
        {"targets": ["linear"], "scale": 0.1, "direction": "forward"},
        {"targets": ["norm"], "scale": 0.1, "phase": "train", "direction": "forward"},
    ],
    aqn=AQN_CONFIG,
)


def used() -> Any:
    """A model that has run under AQN and without, so that anything that is cached is there."""
    model = wrap(tiny(), SPEC, quiet=True)
    aqn = AQN(model)
    with phase(model, "rollout"):
        aqn.step(0)
        logits(model)
        aqn.off()
        logits(model)
    return model


def frozen(model: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    return buffer.getvalue()


def loaded(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)


def in_inference(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def inside(model: Any) -> Any:
        with torch.inference_mode():
            return function(model)

    return inside


def through_meta(model: Any) -> Any:
    with torch.device("meta"):
        empty = Qwen2ForCausalLM(model.config)
        wrap(empty, SPEC, quiet=True)
    empty.to_empty(device="cpu").eval()
    empty.load_state_dict(model.state_dict())
    empty.model.rotary_emb.load_state_dict(model.model.rotary_emb.state_dict())
    for name, buffer in model.named_buffers():  # not all are in the state dict
        empty.get_buffer(name).copy_(buffer)
    return empty


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "deepcopy of a deepcopy": lambda m: copy.deepcopy(copy.deepcopy(m)),
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch.save": lambda m: loaded(frozen(m)),
    "deepcopy in inference mode": in_inference(copy.deepcopy),
    "torch.load in inference mode": in_inference(lambda m: loaded(frozen(m))),
    "meta": through_meta,
}


def set_aqn_by_hand(model: Any) -> None:
    offsets = state_of(model).aqn
    assert offsets is not None
    offsets.only(["model.norm"], 0.4)


def noisy_at(model: Any) -> Tensor:
    with AQN(model).at(5):
        return logits(model)


def after_update(model: Any) -> None:
    update(model, SPEC.replace(seed=9))
    AQN(model).step(2)


SETTINGS: dict[str, Callable[[Any], Any]] = {
    "set_step": lambda m: set_step(m, 7),
    "set_scale": lambda m: state_of(m).set_scale(0.3, kind="linear"),
    "set_phase": lambda m: state_of(m).set_phase("train"),
    "set_enabled": lambda m: state_of(m).set_enabled(False),
    "AQN.step": lambda m: AQN(m).step(3),
    "AQN.at": noisy_at,
    "offsets": set_aqn_by_hand,
    "update": after_update,
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_obeys_its_own_settings(way: str, setting: str) -> None:
    """As a model that was made anew and set likewise; the original is what it was."""
    model = used()
    fresh = wrap(tiny(), SPEC, quiet=True)
    twin = COPIES[way](model)
    for one in (model, twin, fresh):
        state_of(one).set_phase("rollout")
    plain = logits(fresh)
    assert torch.equal(logits(twin), plain)
    expected = SETTINGS[setting](fresh)
    found = SETTINGS[setting](twin)
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected) and not torch.equal(expected, plain)
    else:
        assert torch.equal(logits(twin), logits(fresh)), "set after the copy"
        assert not torch.equal(logits(fresh), plain), "the setting does something"
    assert torch.equal(logits(model), plain), "the original has its own"
    with disabled(twin):
        assert torch.equal(logits(twin), logits(tiny()))


def test_a_copy_made_inside_disabled_is_clean_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = used()
    state_of(model).set_phase("rollout")
    noisy = logits(model)
    with disabled(model):
        clean, twin = logits(model), copy.deepcopy(model)
    assert torch.equal(logits(model), noisy)
    assert torch.equal(logits(twin), clean)
    assert "copied inside `disabled`" in caplog.text
    state_of(twin).set_enabled(True)
    assert torch.equal(logits(twin), noisy)


def test_off_is_off_whatever_is_set_inside_and_what_was_set_is_in_force_after() -> None:
    clean = logits(tiny())
    model, other = wrap(tiny(), SPEC, quiet=True), wrap(tiny(), SPEC, quiet=True)
    state, aqn = state_of(model), AQN(model)
    with phase(model, "rollout"), phase(other, "rollout"):
        with disabled(model):
            with disabled(model):
                aqn.step(1)
                assert torch.equal(logits(model), clean)
            assert torch.equal(logits(model), clean), "the inner one has not ended the outer"
            set_step(model, 4)
            state.set_scale(0.2, kind="linear")
            state.set_enabled(True)
            with aqn.at(9):
                assert torch.equal(logits(model), clean)
            assert torch.equal(logits(model), clean)
        AQN(other).step(1)
        set_step(other, 4)
        state_of(other).set_scale(0.2, kind="linear")
        assert torch.equal(logits(model), logits(other))
        state.set_enabled(False)
        assert torch.equal(logits(model), clean), "enabled=False is for AQN as well"
        with disabled(model):
            pass
        assert torch.equal(logits(model), clean), "and ends with nothing else"
        state.set_enabled(True)
        assert torch.equal(logits(model), logits(other))
        state.set_aqn_enabled(False)
        AQN(other).off()
        assert torch.equal(logits(model), logits(other)), "AQN alone"


def test_at_nests() -> None:
    model = wrap(tiny(), NoiseConfig(rules=[], aqn=AQN_CONFIG), quiet=True)
    clean, aqn = logits(model), AQN(model)
    aqn.step(1)
    first = logits(model)
    aqn.step(2)
    second = logits(model)
    aqn.off()
    with aqn.at(1):
        with aqn.at(2):
            assert torch.equal(logits(model), second)
        assert torch.equal(logits(model), first), "the outer one goes on"
        with pytest.raises(ZeroDivisionError), aqn.at(2):
            1 / 0  # noqa: B018
        assert torch.equal(logits(model), first) and aqn.controller.offsets.step == 1
    assert torch.equal(logits(model), clean)


@pytest.mark.slow
def test_off_in_compiled_code_needs_no_compilation() -> None:
    model = wrap(tiny(), SPEC, quiet=True)
    aqn = AQN(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    with phase(model, "rollout"):
        with disabled(model):
            clean = logits(compiled)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        aqn.step(1)
        noisy = logits(compiled)
        with disabled(model):
            aqn.step(2)
            assert torch.equal(logits(compiled), clean)
        assert not torch.equal(logits(compiled), noisy)
        aqn.step(1)
        assert torch.equal(logits(compiled), noisy)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


def test_float64_and_vmap_are_refused_in_words() -> None:
    from tests.faults.models import IDS

    wide = wrap(tiny(torch.float64), "linear", quiet=True)
    with pytest.raises(UnsupportedTensor, match=r"layers.0.self_attn.q_proj.*float64.*float32"):
        logits(wide)
    with disabled(wide):
        logits(wide)
    model = wrap(tiny(), NoiseConfig(scale=0.1, targets="norm", direction="forward"), quiet=True)
    stacked = {name: torch.stack([p, p]) for name, p in model.named_parameters()}

    def call(parameters: dict[str, Tensor]) -> Tensor:
        arguments = (IDS,), {"use_cache": False}
        return torch.func.functional_call(model, parameters, *arguments).logits

    with torch.no_grad(), pytest.raises(UnsupportedTensor, match="vmap"):
        torch.func.vmap(call)(stacked)
    with pytest.raises(UnsupportedTensor, match=r"torch\.func\.grad"):
        torch.func.grad(lambda p: call(p).sum())(dict(model.named_parameters()))


def test_an_absolute_error_leaves_gradients_alone_unless_asked() -> None:
    rule = {"targets": "linear", "error": "absolute_gaussian", "scale": 0.05}
    clean = torch.cat([g.flatten() for g in gradients(tiny(), IDS).values()])
    with said() as lines:
        model = wrap(tiny(), NoiseConfig(**rule))
    noisy = torch.cat([g.flatten() for g in gradients(model, IDS).values()])
    assert torch.nn.functional.cosine_similarity(noisy, clean, dim=0) > 0.9 and not lines
    with said() as lines:
        wrap(tiny(), NoiseConfig(**rule, direction="both"))
    assert any("gradients" in line and "820" in line for line in lines)
