"""How many examples Hypothesis makes up: the same ones at every run."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

SHARE = float(os.environ.get("FUZZ_SHARE", "1"))
"""Of the examples of `make test`, how many are tried; `make test-fast` says a tenth."""


def fixed(examples: int, **more: Any) -> Any:
    """Hypothesis's settings for ``examples`` fixed examples, or the share of them."""
    return settings(
        max_examples=max(1, round(SHARE * examples)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )
