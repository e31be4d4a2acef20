"""What every test shares."""

from __future__ import annotations

import os

import pytest

# TRL, once some test imports it, turns vLLM's log down to errors unless this is set, for every
# engine that is started afterwards; tests read in those logs what an engine says of itself.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where there is no GPU, the tests that need one are skipped with that reason, and counted."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine has none"))
