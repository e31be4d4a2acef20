"""A worker's comparison of logits, and the rules of its table: without an engine. About 3 s."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hetero_plugin.attestation.distributions import token_rows
from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm.install import Installed
from hetero_plugin.vllm.rows import Rows
from hetero_plugin.vllm.serve import control
from tests.vllm.stand_in import SITES

VOCAB, HIDDEN = 64, 32


class Model(nn.Module):
    """The part of vLLM's models that is used."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = torch.randn(VOCAB, HIDDEN, generator=generator).to(dtype)
        self.head = torch.randn(HIDDEN, VOCAB, generator=generator).to(dtype)
        self.shift = 0.0

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        return hidden_states @ self.head + self.shift * hidden_states[:, :1] * self.head[:1]


class Worker:
    """A worker that is asked for the log-probabilities of prompts, as vLLM's runners are."""

    def __init__(self, dtype: torch.dtype = torch.float32, spec: Any = None) -> None:
        self.model = Model(dtype)
        config = NoiseConfig.parse(spec or {"targets": ["linear"], "scale": 0.1})
        self.state = NoiseState(config, SITES, max_rows=256)
        self.rows = Rows(self.state)
        self.told = 0
        self.hetero_noise = Installed(config, self.state, self.rows, None)
        self.hetero_noise.tell_rows = self._tell
        self.model_runner = SimpleNamespace(get_model=lambda: self.model)
        self.rank = 0

    def _tell(self) -> None:
        self.told += 1

    def answer(self, *prompts: list[int], chunk: int | None = None, whole: bool = False) -> None:
        """One pass over prompts, or over the parts of them that a chunk allows."""
        ids = torch.tensor([token for prompt in prompts for token in prompt])
        positions = torch.cat([torch.arange(len(prompt)) for prompt in prompts])
        hidden = self.model.embed[ids] * (1 + positions[:, None].to(self.model.embed.dtype) / 8)
        parts = [(0, len(ids))] if chunk is None else [
            (i, min(i + chunk, len(ids))) for i in range(0, len(ids), chunk)
        ]  # fmt: skip
        for first, last in parts:
            self.rows.before_forward(self.model, (ids[first:last], positions[first:last]), {})
            self.rows.pick(torch.tensor([last - first - 1]))
            some = hidden[first:last]
            self.model.compute_logits(some[torch.tensor([last - first - 1])])  # what is sampled
            with self.rows.slices_of(some):
                if whole:  # the newer runner: all rows of the pass at once
                    self.model.compute_logits(some)
                    continue
                start = 0
                for prompt in prompts if chunk is None else [ids[first:last].tolist()]:
                    count = len(prompt) - (chunk is None)
                    self.model.compute_logits(some[start : start + count])
                    start += len(prompt)

    def logits(
        self, do: str, windows: list[list[int]] | None = None, sampling: int | None = None
    ) -> dict[str, Any]:
        return control.hetero_noise_logits(self, do, windows, sampling)  # type: ignore[arg-type]


WINDOWS = [[3, 4, 5, 6], [3, 4, 5, 6], [7, 8, 9], [3, 4, 9, 9, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("whole", [False, True])
def test_each_window_is_compared_with_itself(dtype: torch.dtype, whole: bool) -> None:
    worker = Worker(dtype)
    assert worker.logits("keep", WINDOWS) == {} and worker.told == 1
    worker.answer(*WINDOWS, whole=whole)
    assert worker.logits("take") == {}
    worker.logits("compare", WINDOWS)
    for window in reversed(WINDOWS):  # another order, one at a time
        worker.answer(window, whole=whole)
    same = worker.logits("take")
    assert [len(row) for row in same["kl"]] == [3, 3, 2, 4]
    assert max(value for row in same["kl"] for value in row) < 1e-12
    assert "same_sample" not in same
    worker.logits("compare", WINDOWS, 5)
    worker.answer(*WINDOWS, whole=whole)
    drawn = worker.logits("take")["same_sample"]
    assert drawn == [[1.0] * len(row) for row in same["kl"]]
    worker.logits("compare", WINDOWS, 5)
    worker.model.shift = 0.5
    worker.answer(WINDOWS[2], WINDOWS[0], whole=whole)
    worker.answer(WINDOWS[1], WINDOWS[3], whole=whole)
    found = worker.logits("take")
    for index, window in enumerate(WINDOWS):
        ids = torch.tensor(window)
        hidden = worker.model.embed[ids] * (1 + torch.arange(len(ids))[:, None].to(dtype) / 8)
        clean = hidden @ worker.model.head
        noisy = clean + 0.5 * hidden[:, :1] * worker.model.head[:1]
        wanted = token_rows(clean[:-1], noisy[:-1], ids[1:])
        for name, values in wanted.items():
            assert np.allclose(found[name][index], values, rtol=2e-2, atol=1e-9), name
        assert len(found["same_sample"][index]) == len(window) - 1
    assert found["same_sample"][0] == found["same_sample"][1], "by the text, not by its place"
    worker.logits("forget")
    assert worker.hetero_noise.windows is None
    assert worker.model.compute_logits.__func__ is Model.compute_logits  # type: ignore[attr-defined]


def test_a_window_in_parts_is_an_error_and_no_number() -> None:
    worker = Worker()
    worker.logits("keep", WINDOWS[:1])
    worker.answer(WINDOWS[0], chunk=2)
    with pytest.raises(RuntimeError, match="1 of 1 windows were not seen whole"):
        worker.logits("take")


def test_what_is_asked_in_the_wrong_order() -> None:
    worker = Worker()
    with pytest.raises(ConfigError, match="nothing is armed"):
        worker.logits("take")
    with pytest.raises(ConfigError, match="at least 2 token ids"):
        worker.logits("keep", [[1]])
    with pytest.raises(ConfigError, match="it must be keep, compare, take or forget"):
        worker.logits("drop")
    worker.logits("keep", WINDOWS[:1])
    worker.answer(WINDOWS[0])
    worker.logits("take")
    with pytest.raises(ConfigError, match="clean logits of 1 are kept"):
        worker.logits("compare", WINDOWS[1:3])


def test_rules_are_switched_by_their_number() -> None:
    spec = {
        "rules": [
            {"targets": ["linear"], "scale": 0.1},
            {"error": "relative_uniform", "targets": ["linear", "norm"], "scale": 0.2},
        ]
    }
    worker: Any = Worker(spec=spec)
    control.hetero_noise_set(worker, scale=0.0)
    control.hetero_noise_set(worker, scale=0.5, rule=1)
    scales: dict[int, set[float]] = {}
    for site in control.hetero_noise_sites(worker):
        assert site["rules"] == ([1] if site["kind"] == "norm" else [0, 1])
        for rule, scale in zip(site["rules"], site["scales"], strict=True):
            scales.setdefault(rule, set()).add(scale)
    assert scales == {0: {0.0}, 1: {0.5}}
    control.hetero_noise_set(worker, rule=1, enabled=False)
    assert {s for site in control.hetero_noise_sites(worker) for s in site["scales"]} == {0.0}
    with pytest.raises(ConfigError, match="no noisy site matches rule=2"):
        control.hetero_noise_set(worker, scale=0.5, rule=2)
    with pytest.raises(ConfigError, match="rule is True"):
        control.hetero_noise_set(worker, scale=0.5, rule=True)
