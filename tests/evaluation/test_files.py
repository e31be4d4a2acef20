"""Writing results: one holder of a target, whole files, and nothing written over."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hetero_plugin.evaluation import files

HOLD = """
import sys
from pathlib import Path
from hetero_plugin.evaluation import files
with files.locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that has ``path``, until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_another_processes_file_is_refused_with_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "eval.json"
    with holder(path) as other:
        words = (
            rf"eval\.json is in use by process {other.pid} on {socket.gethostname()} since 20\d\d-"
        )
        with pytest.raises(files.FileError, match=words), files.locked(path):
            raise AssertionError("two have it")
        other.communicate("\n")
    with files.locked(path):
        pass
    assert not list(path.parent.iterdir())


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    with holder(path) as other:
        other.kill()
        other.wait()
    assert (tmp_path / ".eval.json.lock").exists()  # its file stays, and binds nobody
    with files.locked(path):
        pass


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    path, inside, most, refused = tmp_path / "eval.json", [0], [0], []

    def work() -> None:
        for _ in range(200):
            try:
                with files.locked(path):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    inside[0] -= 1
            except files.FileError:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and len(refused) < 800


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """An engine's process that outlives the evaluation must not keep its results from the next."""
    path = tmp_path / "eval.json"
    read, write = os.pipe()
    with files.locked(path):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    try:
        with files.locked(path):
            pass
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)


@pytest.mark.parametrize("what", ["link", "dangling link", "folder"])
def test_a_lock_goes_through_no_link(tmp_path: Path, what: str) -> None:
    lock, victim = tmp_path / ".eval.json.lock", tmp_path / "victim"
    victim.write_text("kept")
    if what == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(victim if what == "link" else tmp_path / "nowhere")
    with (
        pytest.raises(files.FileError, match="can't be taken"),
        files.locked(tmp_path / "eval.json"),
    ):
        pass
    assert victim.read_text() == "kept" and not (tmp_path / "nowhere").exists()


def test_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    values = [{"writer": n, "text": str(n) * 50_000} for n in range(6)]

    def work(value: object) -> None:
        for _ in range(8):
            files.write_json(path, value)

    threads = [threading.Thread(target=work, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            assert json.loads(path.read_text()) in values
    assert json.loads(path.read_text()) in values
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"n": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"n": float("nan")})
    assert json.loads(path.read_text()) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_file_has_the_umasks_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_json(tmp_path / "a.json", {})
        files.write_new(tmp_path / "b.json", {})
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_goes_over_nothing(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def no_link(*args: object, **kwargs: object) -> None:
            raise PermissionError("no hard links here")

        monkeypatch.setattr(os, "link", no_link)
    path = tmp_path / "a.json"
    assert files.write_new(path, 1) == path
    assert files.write_new(path, 2) == tmp_path / "a-2.json"
    (tmp_path / "a-3.json").symlink_to(tmp_path / "nowhere")  # a name that is taken
    assert files.write_new(path, 4) == tmp_path / "a-4.json"
    found = {p.name: p.read_text() for p in tmp_path.iterdir() if not p.is_symlink()}
    assert found == {"a.json": "1\n", "a-2.json": "2\n", "a-4.json": "4\n"}


@pytest.mark.parametrize("bad", ["folder", "below a file", "/proc/nowhere/a.json", "a\0.json"])
def test_a_target_that_cant_be_written_is_known_before(tmp_path: Path, bad: str) -> None:
    (tmp_path / "file").write_text("")
    path = {"folder": tmp_path, "below a file": tmp_path / "file" / "a.json"}.get(bad, Path(bad))
    with pytest.raises(files.FileError, match=r"--out .*(can't be written|is a folder)"):
        files.check_target(path)
