"""A small checkpoint with a tokenizer, and a text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 Qwen2 of two layers whose norms have weights that matter."""
    folder = tmp_path_factory.mktemp("recorded") / "tiny"
    shape = MiniatureShape(hidden=64, layers=2, heads=4, kv_heads=2, intermediate=192)
    model = build_model(shape, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(0.3 + 2 * torch.rand(parameter.shape, generator=generator))
    save(model.to(torch.bfloat16), build_tokenizer(), folder)
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 900 tokens, a byte each."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("".join(f"{n} plus {3 * n} makes {4 * n}. " for n in range(40)))
    return file
