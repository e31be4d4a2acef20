"""What an attestation's outputs are made of, without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm")

from hetero_plugin.config import NoiseConfig
from hetero_plugin.vllm.probe import EngineProbe

FORBIDDEN = -np.inf


class Probe(EngineProbe):
    """Gives the outputs it was made with, one after the other."""

    def __init__(self, *outputs: list[float]) -> None:
        text = SimpleNamespace(to_dict=dict, vocab_size=64)
        model = SimpleNamespace(
            hf_text_config=text, enforce_eager=True, dtype="torch.float32", max_model_len=64
        )
        vllm_config: Any = SimpleNamespace(
            model_config=model,
            parallel_config=SimpleNamespace(tensor_parallel_size=1),
            scheduler_config=SimpleNamespace(max_num_batched_tokens=64),
        )
        transport: Any = SimpleNamespace(forget=lambda: None)
        super().__init__(transport, vllm_config, NoiseConfig.parse("linear"))
        self.outputs = iter(outputs)

    def _answered(self, prompts: object, tokens: int = 2) -> np.ndarray:
        return np.array(next(self.outputs))


def test_tokens_that_an_engine_never_gives_are_left_out() -> None:
    """verl masks ids beyond the tokenizer's: minus infinity, noisy or not, is no garbage."""
    probe = Probe([-1.0, FORBIDDEN, -2.0], [-1.5, FORBIDDEN, -2.5])
    assert probe.output().tolist() == [-1.0, -2.0]
    assert probe.output().tolist() == [-1.5, -2.5]


@pytest.mark.parametrize("broken", ([FORBIDDEN] * 3, [-1.0, np.nan, -2.0], [FORBIDDEN, -1.0, -2.0]))
def test_another_token_that_becomes_impossible_is_garbage(broken: list[float]) -> None:
    probe = Probe([-1.0, FORBIDDEN, -2.0], broken)
    probe.output()
    found = probe.output()
    assert not np.isfinite(found).all()


def test_an_output_without_any_token_is_empty() -> None:
    assert Probe([FORBIDDEN, FORBIDDEN]).output().size == 0
