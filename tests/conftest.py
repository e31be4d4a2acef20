"""What every test shares."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests import compat

# TRL, once some test imports it, turns vLLM's log down to errors unless this is set, for every
# engine that is started afterwards; tests read in those logs what an engine says of itself.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")


# Lanes share the cores: an engine must neither take all of them nor bind to the same ones as its
# neighbour, and Ray's workers, which are nice by default, must not starve beside it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("RAY_worker_niceness", "0")

_faults: dict[str, str] = {}

LONG = (
    "tests/engines/test_verl_grpo.py",
    "tests/engines/test_vllm_families.py",  # the next start no Ray while the first may still run
    "tests/trl/test_grpo.py",
    "tests/engines/test_evaluation_vllm.py",
    "tests/engines/test_gpu_rehearsal.py",
    "tests/study/test_study_demo.py",
)
"""Of the files that start engines, what takes minutes: these first, so that lanes (a file each at a
time) end together."""


@pytest.hookimpl
def pytest_configure(config: pytest.Config) -> None:
    """One compile cache for all engines of a run, and no graph of another checkout's.

    What vLLM notes of its own architectures stays where it is: that takes a process and ten seconds
    each, and goes by the text of vLLM's files.
    """
    if hasattr(config, "workerinput"):
        return  # a lane has its environment from the process that started it
    folder = tempfile.mkdtemp(prefix="hetero-noise-tests-")
    before = os.environ.get("VLLM_CACHE_ROOT")
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm" / "modelinfos"
    kept.mkdir(parents=True, exist_ok=True)
    Path(folder, "modelinfos").symlink_to(kept)
    os.environ["VLLM_CACHE_ROOT"] = folder

    def undo() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if before is None:
            del os.environ["VLLM_CACHE_ROOT"]
        else:
            os.environ["VLLM_CACHE_ROOT"] = before

    config.add_cleanup(undo)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is quick first, what starts an engine last: a plain mistake shows in minutes."""
    marked = {name: _with(name, items) for name in ("slow", "engine")}
    items.sort(key=lambda item: _rank(_file(item), **marked))
    _skip_gpu(items)
    compat.note(items)


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _with(mark: str, items: list[pytest.Item]) -> set[str]:
    """The files that have a test with a mark; a lane takes whole files."""
    return {_file(item) for item in items if item.get_closest_marker(mark)}


def _rank(file: str, slow: set[str], engine: set[str]) -> int:
    if file not in engine:
        return int(file in slow)
    return 2 + (LONG.index(file) if file in LONG else len(LONG))


def _skip_gpu(items: list[pytest.Item]) -> None:
    """Where there is no GPU, the tests that need one are skipped with that reason, and counted."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine has none"))


@pytest.hookimpl
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "test_fault_is_noticed[" in report.nodeid and (report.when == "call" or report.failed):
        _faults[report.nodeid] = report.outcome
    compat.record(report)


@pytest.hookimpl
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A check of `make compat` that no test carries any more has not passed."""
    controls = not hasattr(session.config, "workerinput")
    if controls and compat.asked(session.config) and compat.lost(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The count of the fault matrix (tests/faults/registry.py); the table of `make compat`."""
    if compat.asked(terminalreporter.config):
        terminalreporter.section("compat")
        for line in compat.lines():
            terminalreporter.write_line(line)
    if _faults:
        caught = sum(outcome == "passed" for outcome in _faults.values())
        silent = sum(outcome == "failed" for outcome in _faults.values())
        terminalreporter.write_line(
            f"fault matrix: {len(_faults)} tried, {caught} caught, {silent} silent"
        )
