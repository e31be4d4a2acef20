"""A stage's process: progress is heard, failures show the log, nothing stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hetero_plugin.study import child

_TELLS = "from hetero_plugin.study.child import tell; tell(0.25, 'a quarter'); print('noise')"


def _run(code: str, log: Path, heard: list[tuple[float, str]], timeout: float = 60.0) -> None:
    command = [sys.executable, "-c", code]
    child.run(
        command, os.environ, log, lambda share, words: heard.append((share, words)), timeout=timeout
    )


def test_progress_is_heard_and_output_is_kept(tmp_path: Path) -> None:
    heard: list[tuple[float, str]] = []
    _run(_TELLS, tmp_path / "logs" / "x.log", heard)
    assert heard == [(0.25, "a quarter")]
    assert "noise" in (tmp_path / "logs" / "x.log").read_text()


def test_a_failure_shows_the_end_of_the_log_without_progress_lines(tmp_path: Path) -> None:
    code = f"{_TELLS}; raise SystemExit('the engine is gone')"
    with pytest.raises(child.StageFailed, match=r"(?s)exit status 1.*engine is gone") as caught:
        _run(code, tmp_path / "x.log", [])
    assert child.PREFIX not in str(caught.value) and str(tmp_path / "x.log") in str(caught.value)


def test_a_hung_stage_is_stopped_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is up once it has started what it starts, however long that takes here."""
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys, time, pathlib\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(p.pid))\n"
        "time.sleep(300)\n"
    )

    def clock() -> float:
        return 1000.0 if pid_file.exists() and pid_file.read_text() else 0.0

    monkeypatch.setattr(child, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    with pytest.raises(child.StageFailed, match="stopped after"):
        _run(code, tmp_path / "x.log", [], timeout=6.0)
    started = int(pid_file.read_text())
    assert _eventually(lambda: [] if _gone(started) else [started], 0) == []


def test_nothing_outlives_a_runner_that_was_killed(tmp_path: Path) -> None:
    """SIGKILL leaves the runner no say; even what doesn't heed SIGTERM ends, within seconds."""
    stubborn = (
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "folder = pathlib.Path(__import__('sys').argv[1])\n"
        "(folder / f'{os.getpid()}.pid').touch()\n"
        "time.sleep(300)\n"
    )
    stage = (
        "import subprocess, sys\n"
        f"one = [sys.executable, '-c', {stubborn!r}, {str(tmp_path)!r}]\n"
        "subprocess.Popen(one)\n"
        "subprocess.run(one)\n"
    )
    runner = (
        "import os, pathlib, sys\n"
        "from hetero_plugin.study import child\n"
        f"command = [sys.executable, '-c', {stage!r}]\n"
        f"child.run(command, os.environ, pathlib.Path({str(tmp_path / 'x.log')!r}), print)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", runner])
    try:
        found = _eventually(lambda: [int(p.stem) for p in tmp_path.glob("*.pid")], 2)
        assert len(found) == 2, "both must run when the runner is killed"
    finally:
        process.kill()
        process.wait()
    assert _eventually(lambda: [pid for pid in found if not _gone(pid)], 0) == []


def _gone(pid: int) -> bool:
    """Ended; a zombie is: who reaps it is another's matter."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _eventually(look: Callable[[], list[int]], count: int) -> list[int]:
    """What is seen, as soon as it is so many, or after a minute."""
    deadline = time.monotonic() + 60
    while len(seen := look()) != count and time.monotonic() < deadline:
        time.sleep(0.05)
    return seen
