"""A stage's process: progress is heard, failures show the log, nothing stays behind."""

from __future__ import annotations

import os
import sys
import time
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
    stat = Path(f"/proc/{int(pid_file.read_text())}/stat")
    deadline = time.monotonic() + 60
    while stat.exists() and stat.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not stat.exists() or stat.read_text().split()[2] == "Z"
