"""What several files of engine tests start from."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Qwen2 with random weights, its tokenizer, and 64 additions; it is only read."""
    from tests.engines.verl_run import make_miniature

    folder = tmp_path_factory.mktemp("miniature")
    make_miniature(folder)
    return folder
