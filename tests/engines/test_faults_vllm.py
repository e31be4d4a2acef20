"""The faults of the matrix that need vLLM: one process for all of them."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm")

from tests.faults.registry import Fault, everything

pytestmark = pytest.mark.engine
FAULTS = [one for one in everything() if one.engine == "vllm"]


@pytest.mark.parametrize("fault", FAULTS, ids=[one.name.replace(" ", "-") for one in FAULTS])
def test_fault_is_noticed(fault: Fault) -> None:
    print(f"{fault.name}: {fault.run()}")
