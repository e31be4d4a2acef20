"""Random sequences of what people do: nothing noisy is ever saved, no original is ever lost.

150 sequences here; ``HETERO_NOISE_SEQUENCES=1000`` for more.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from safetensors.torch import load_file, save_file

from hetero_plugin import AQN, AQNConfig, ConfigError, NoiseConfig
from hetero_plugin.hf import disabled, phase, set_step, state_of, unwrap, update, wrap
from hetero_plugin.hf.layers import is_noisy
from tests.fuzz.examples import fixed
from tests.hf.families import make_family, tokens

IDS = tokens(1, 4)
AQN_CONFIG = AQNConfig(schedule="constant", sigma_start=0.1, total_steps=9)
SPECS = [
    NoiseConfig(preset="all-ops", scale=0.1),
    NoiseConfig(preset="rmsnorm", scale=0.1, aqn=AQN_CONFIG),
    NoiseConfig(scale=0.1, targets="linear", point="weight", phase="train"),
    NoiseConfig(rules=[], aqn=AQN_CONFIG.model_copy(update={"precision": "param"})),
]


class Breaks(Exception):
    pass


class Life(RuleBasedStateMachine):
    """One model, and what its parameters have to be."""

    @initialize()
    def start(self) -> None:
        self.model = make_family("qwen2", num_hidden_layers=1, vocab_size=96, hidden_size=16)
        self.classes = [type(module) for module in self.model.modules()]
        self.truth = {name: v.clone() for name, v in self.model.state_dict().items()}
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.wrapped = False
        self.folder = tempfile.TemporaryDirectory()

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def path(self, name: str) -> Path:
        return Path(self.folder.name) / name

    def saved(self) -> dict[str, torch.Tensor]:
        return load_file(self.path("model.safetensors"))

    def forward(self) -> Any:
        if self.wrapped:
            with phase(self.model, "train"):
                return self.model(IDS, labels=IDS)
        return self.model(IDS, labels=IDS)

    @invariant()
    def parameters_are_the_originals(self) -> None:
        if not hasattr(self, "truth"):
            return
        now = self.model.state_dict()
        assert list(now) == list(self.truth)
        assert all(torch.equal(now[name], value) for name, value in self.truth.items())

    @invariant()
    def only_a_wrapped_model_is_noisy(self) -> None:
        if hasattr(self, "truth"):
            assert any(is_noisy(module) for module in self.model.modules()) == self.wrapped

    @precondition(lambda self: not self.wrapped)
    @rule(spec=st.sampled_from(SPECS))
    def wrap(self, spec: NoiseConfig) -> None:
        wrap(self.model, spec, quiet=True)
        self.wrapped = True

    @precondition(lambda self: self.wrapped)
    @rule()
    def unwrap(self) -> None:
        unwrap(self.model)
        self.wrapped = False
        assert [type(module) for module in self.model.modules()] == self.classes

    @precondition(lambda self: self.wrapped)
    @rule(spec=st.sampled_from(SPECS))
    def update(self, spec: NoiseConfig) -> None:
        update(self.model, spec)

    @rule(spec=st.sampled_from([{"scale": -1}, {"scale": 0.1, "targets": "nothing"}]))
    def bad_spec(self, spec: dict[str, Any]) -> None:
        before = state_of(self.model).fingerprint if self.wrapped else None
        try:
            (update if self.wrapped else wrap)(self.model, spec)
        except ConfigError:
            assert (state_of(self.model).fingerprint if self.wrapped else None) == before
        else:
            raise AssertionError("a bad spec was taken")

    @precondition(lambda self: self.wrapped)
    @rule(step=st.integers(0, 8), scale=st.sampled_from([0.0, 0.2, None]))
    def set(self, step: int, scale: float | None) -> None:
        set_step(self.model, step)
        state = state_of(self.model)
        if state.slots and scale is not None:
            state.set_scale(scale)
        elif state.slots:
            state.reset_scales()
        if state.aqn is not None:
            AQN(self.model).step(step)

    @rule(checkpointing=st.sampled_from([None, True, False]), breaks=st.booleans())
    def train(self, checkpointing: bool | None, breaks: bool) -> None:
        """An optimizer step changes the truth; a forward pass that breaks changes nothing."""
        self.model.train()
        if checkpointing is not None:
            self.model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        hooks = []
        if breaks:

            def broken(*args: Any) -> None:
                raise Breaks

            hooks.append(self.model.model.layers[0].mlp.register_forward_hook(broken))
        try:
            self.forward().loss.backward()
        except Breaks:
            pass
        else:
            self.parameters_are_the_originals()  # until the optimizer, and nobody else, writes
            self.optimizer.step()
            self.truth = {n: v.clone() for n, v in self.model.state_dict().items()}
        finally:
            self.optimizer.zero_grad()
            for hook in hooks:
                hook.remove()
            self.model.gradient_checkpointing_disable()
            self.model.eval()

    @rule()
    def save(self) -> None:
        save_file(self.model.state_dict(), self.path("model.safetensors"))
        saved = self.saved()
        assert saved.keys() == self.truth.keys()
        assert all(torch.equal(saved[name], value) for name, value in self.truth.items())

    @rule()
    def save_pretrained(self) -> None:
        self.model.save_pretrained(self.path("hf"))
        saved = load_file(self.path("hf") / "model.safetensors")
        assert all(torch.equal(saved[name], value) for name, value in self.truth.items())
        assert "hetero" not in (self.path("hf") / "config.json").read_text()

    @precondition(lambda self: self.path("model.safetensors").exists())
    @rule()
    def load(self) -> None:
        saved = self.saved()
        self.truth = {name: saved[name] for name in self.truth}
        self.model.load_state_dict(self.truth)

    @precondition(lambda self: self.wrapped)
    @rule()
    def disabled_is_the_clean_model(self) -> None:
        clean = make_family("qwen2", num_hidden_layers=1, vocab_size=96, hidden_size=16)
        clean.load_state_dict(self.truth)
        with torch.no_grad(), disabled(self.model):
            assert torch.equal(self.model(IDS).logits, clean(IDS).logits)


def test_no_sequence_saves_noise_or_loses_an_original() -> None:
    sequences = int(os.environ.get("HETERO_NOISE_SEQUENCES", "150"))
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Life,
        settings=fixed(sequences, stateful_step_count=12),
    )
