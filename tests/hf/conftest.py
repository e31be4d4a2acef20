"""Tiny random Qwen2 models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM


def tiny(dtype: torch.dtype = torch.float32, **changes: object) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    sizes: dict[str, object] = dict(
        vocab_size=272,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.1,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = Qwen2ForCausalLM(Qwen2Config(**(sizes | changes))).to(dtype).eval()
    with torch.no_grad():  # norms of 1 would hide a wrong AQN formula
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.3, 3.0)
    return model


def gradients(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradient of each parameter for one batch."""
    model.zero_grad(set_to_none=True)
    model(ids, labels=ids).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def make() -> Callable[..., Qwen2ForCausalLM]:
    return tiny


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(1, 272, (3, 17), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bits are compared here, and some of torch's own backward passes are not the same twice on two
    threads: transformers' batched experts differ from themselves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
