"""An engine that is ended leaves no process behind: not its workers, and nothing unreaped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from hetero_plugin.vllm import processes

psutil = pytest.importorskip("psutil", reason="comes with vLLM")

SLEEP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def engine_process(pipe: Any, deaf: bool) -> None:
    """Starts a worker, and ends it when it is asked to end; a deaf one is never asked."""
    worker = subprocess.Popen([sys.executable, "-c", SLEEP])
    short = subprocess.Popen([sys.executable, "-c", ""])  # ends, and nobody waits for it

    def stop(*_: Any) -> None:
        worker.kill()
        worker.wait()
        os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else stop)
    pipe.send((worker.pid, short.pid))
    time.sleep(600)


class Client:
    """The end of an engine's client as vLLM has it: a signal, a time to end, and then a kill."""

    def __init__(self, process: Any) -> None:
        self.resources = SimpleNamespace(engine_manager=SimpleNamespace(processes=[process]))
        self.given: float | None = None

    def shutdown(self, timeout: float | None = None) -> None:
        self.given = timeout
        (process,) = self.resources.engine_manager.processes
        process.terminate()
        process.join(1)
        if process.is_alive():
            process.kill()


def left_of_an_engine(deaf: bool) -> list[str]:
    """Ends one; the processes that are there afterwards and should not be."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=engine_process, args=(theirs, deaf))
    process.start()
    pids = [process.pid, *ours.recv()]
    client = Client(process)
    llm: Any = SimpleNamespace(llm_engine=SimpleNamespace(engine_core=client))
    processes.end(llm, grace=7.0)
    assert client.given == 7.0 and not process.is_alive()
    left = [f"{pid} is there" for pid in pids if psutil.pid_exists(pid)]
    for child in psutil.Process().children(recursive=True):
        if child.status() == psutil.STATUS_ZOMBIE:
            left.append(f"{child.pid} is not reaped")
    return left


@pytest.mark.parametrize("deaf", [False, True])
def test_nothing_is_left_of_an_engine(deaf: bool) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        assert left_of_an_engine(deaf) == []
        assert bystander.poll() is None, "what is not the engine's is left alone"
    finally:
        bystander.kill()
        bystander.wait()


def test_an_engine_whose_client_takes_no_time_limit_or_is_gone() -> None:
    asked = []
    core = SimpleNamespace(shutdown=lambda: asked.append(1))
    processes.end(SimpleNamespace(llm_engine=SimpleNamespace(engine_core=core)))
    processes.end(SimpleNamespace(llm_engine=SimpleNamespace()))
    assert asked == [1]


ENDS = """
import multiprocessing
from types import SimpleNamespace
from hetero_plugin.vllm import processes
lock = multiprocessing.get_context("spawn").Lock()  # starts the tracker, which has to free it
processes.end(SimpleNamespace(llm_engine=SimpleNamespace()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="orphans are looked for by prctl")
def test_the_resource_tracker_is_reaped_with_the_process() -> None:
    """Python before 3.12 leaves it to init, which in a container may reap nothing."""
    with processes._orphans_come_here():
        before = {child.pid for child in psutil.Process().children()}
        done = subprocess.run(
            [sys.executable, "-c", ENDS], capture_output=True, text=True, check=False
        )
        time.sleep(0.5)
        left = [child for child in psutil.Process().children() if child.pid not in before]
    assert done.returncode == 0 and done.stderr == ""
    assert left == []
