"""The faults of the matrix that need vLLM: one engine for all of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

pytest.importorskip("vllm")

from tests.faults.bench import Bench
from tests.faults.registry import Fault, everything

pytestmark = pytest.mark.engine
FAULTS = [one for one in everything() if one.engine == "vllm"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    path = tmp_path_factory.mktemp("faults")
    made = Bench(
        path / "log.txt",
        "engine",
        str(path),
        VLLM_WORKER_MULTIPROCESSING_METHOD="spawn",
        VLLM_ALLOW_INSECURE_SERIALIZATION="1",  # functions are sent to the worker, to break it
        VLLM_CPU_OMP_THREADS_BIND="nobind",
    )
    yield made
    made.close()


@pytest.mark.parametrize("fault", FAULTS, ids=[one.name.replace(" ", "-") for one in FAULTS])
def test_fault_is_noticed(fault: Fault, request: pytest.FixtureRequest) -> None:
    needs = "bench" in inspect.signature(fault.run).parameters
    words = fault.run(request.getfixturevalue("bench")) if needs else fault.run()
    print(f"{fault.name}: {words}")
