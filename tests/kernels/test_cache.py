"""The folder of the built kernel: whose library is loaded, and who waits for whom, how long."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hetero_plugin.kernels import build, cache
from tests import forked

ROOT = os.geteuid() == 0
NOBODY = 54321
LOAD = "from hetero_plugin.kernels import KERNEL, WHY_REFERENCE; print(KERNEL, '|', WHY_REFERENCE)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that is not there yet."""
    monkeypatch.setenv("HETERO_NOISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a compiler of our own in place: a shell script that answers --version, then BODY."""

    def write(body: str, version: str = "c 1.0") -> Path:
        path = tmp_path / "compiler"
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit\n{body}\n')
        path.chmod(0o700)
        monkeypatch.setenv("CXX", str(path))
        build.compiler_version.cache_clear()
        return path

    return write


COPY = 'while [ "$1" != -o ]; do shift; done; echo made > "$2"'


def ends(pid: int, within: float) -> bool:
    """Whether a process has ended in so many seconds; one that nobody waited for has."""
    stat, limit = Path(f"/proc/{pid}/stat"), time.monotonic() + within
    while time.monotonic() < limit:
        try:
            if stat.read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_what_is_built_is_the_users_alone(
    folder: Path, script: Callable[..., Path], umask: int
) -> None:
    script(COPY)
    before = os.umask(umask)
    try:
        library = build.build()
    finally:
        os.umask(before)
    assert library.parent == folder and library.read_text() == "made\n"
    assert mode(folder) == 0o700 and mode(library) == 0o700
    assert all(mode(path) & 0o077 == 0 for path in folder.iterdir())
    assert build.build() == library  # and is taken the next time


def test_a_folder_that_others_could_read_is_closed(
    folder: Path, script: Callable[..., Path]
) -> None:
    folder.mkdir(mode=0o755)
    script(COPY)
    build.build()
    assert mode(folder) == 0o700


def planted(folder: Path) -> Path:
    """The library that would be loaded, put there in advance."""
    library = build.library_path()
    folder.mkdir(mode=0o700)
    library.write_text("planted")
    library.chmod(0o700)
    return library


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o777, 0o720, 0o1777])
def test_a_folder_that_others_can_write_to(
    folder: Path, script: Callable[..., Path], bits: int
) -> None:
    script(COPY)
    planted(folder)
    folder.chmod(bits)
    with pytest.raises(cache.UnsafeCache, match=rf"others can write to {folder} \(mode {bits:04o}"):
        build.build()


@pytest.mark.parametrize("bits", [0o666, 0o664, 0o602, 0o777])
def test_a_library_that_others_can_write_to(
    folder: Path, script: Callable[..., Path], bits: int
) -> None:
    script(COPY)
    planted(folder).chmod(bits)
    with pytest.raises(cache.UnsafeCache, match="others can write to"):
        build.build()


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
@pytest.mark.parametrize("which", ["folder", "library", "above"])
def test_what_belongs_to_somebody_else(
    folder: Path, script: Callable[..., Path], which: str
) -> None:
    script(COPY)
    library = planted(folder)
    os.chown({"folder": folder, "library": library, "above": folder.parent}[which], NOBODY, -1)
    with pytest.raises(cache.UnsafeCache, match=f"belongs to user {NOBODY}"):
        build.build()


def test_a_folder_that_others_could_swap(folder: Path, script: Callable[..., Path]) -> None:
    script(COPY)
    planted(folder)
    folder.parent.chmod(0o777)
    with pytest.raises(cache.UnsafeCache, match="above it is not safe"):
        build.build()
    folder.parent.chmod(0o1777)  # sticky, as /tmp is: what is there can't be swapped
    assert build.build().read_text() == "planted"


@pytest.mark.parametrize("which", ["folder", "library", "lock", "dangling lock", "lock is a fifo"])
def test_no_link_is_followed(
    folder: Path, script: Callable[..., Path], tmp_path: Path, which: str
) -> None:
    script(COPY)
    target = build.library_path()
    victim = tmp_path / "victim"
    victim.write_text("kept")
    if which == "folder":
        (tmp_path / "real").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "real")
    else:
        folder.mkdir(mode=0o700)
        lock = target.with_suffix(".lock")
        if which == "library":
            target.symlink_to(victim)
        elif which == "lock":
            lock.symlink_to(victim)
        elif which == "dangling lock":
            lock.symlink_to(tmp_path / "nowhere")
        else:
            os.mkfifo(lock)
    with pytest.raises(cache.UnsafeCache, match=r"symbolic link|is not a file"):
        build.build()
    assert victim.read_text() == "kept" and not (tmp_path / "nowhere").exists()


def test_the_compilers_version_is_part_of_the_name(
    folder: Path, script: Callable[..., Path]
) -> None:
    script(COPY, "c 1.0")
    first = build.library_path()
    script(COPY, "c 1.1")
    assert build.library_path() != first
    script(COPY, "c 1.0")
    assert build.library_path() == first


def test_a_compilation_has_a_time_limit_and_leaves_no_process(
    folder: Path, script: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    script(f"sleep 300 & echo $! > {pid}; wait")  # as g++ waits for cc1plus, which holds the pipe
    monkeypatch.setenv("HETERO_NOISE_BUILD_SECONDS", "5")  # in which a busy machine starts a shell
    with pytest.raises(build.BuildFailed, match="longer than 5 s"):
        build.build()
    # Killed, so it is gone soon; what sleeps by itself stays for five minutes.
    assert ends(int(pid.read_text()), within=60)
    assert not list(folder.glob("*.so")) and not list(folder.glob("tmp*"))


def test_waiting_for_another_process_has_one_too(
    folder: Path, script: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    script(COPY)
    folder.mkdir(mode=0o700)
    lock = build.library_path().with_suffix(".lock")
    monkeypatch.setenv("HETERO_NOISE_BUILD_SECONDS", "0.2")
    monkeypatch.setattr(build, "_WAIT_MORE", 0.2)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(build.BuildFailed, match="another process has held"):
            build.build()
    monkeypatch.setenv("HETERO_NOISE_BUILD_SECONDS", "60")
    assert build.build().exists()


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "soon"])
def test_a_time_limit_that_is_none(
    folder: Path, script: Callable[..., Path], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(COPY)
    monkeypatch.setenv("HETERO_NOISE_BUILD_SECONDS", text)
    with pytest.raises(build.BuildFailed, match="HETERO_NOISE_BUILD_SECONDS"):
        build.build()


def loaded(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A new process that imports the kernels; what it says is kept in ``folder``."""
    return forked.python(LOAD, folder=folder / "said", env=environment)


def no_compiler(tmp_path: Path) -> str:
    """A PATH on which there is nothing."""
    (tmp_path / "bin").mkdir()
    return str(tmp_path / "bin")


def test_without_a_compiler_the_reference_runs_and_says_so(tmp_path: Path) -> None:
    done = loaded(
        tmp_path, PATH=no_compiler(tmp_path), CXX="", HETERO_NOISE_CACHE=str(tmp_path / "c")
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reference | no C++ compiler found")
    assert "RuntimeWarning: no C++ compiler found" in done.stderr and "slower" in done.stderr


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("open", "others can write to"),
        ("a file", "Not a directory|is not a folder"),
        ("compiler fails", "compiling the CPU kernel failed"),
        ("compiler without a version", "failed"),
        ("not a library", "Could not load this library.*remove it"),
    ],
)
def test_whatever_is_wrong_the_reference_runs_and_says_why(
    folder: Path, script: Callable[..., Path], trouble: str, words: str
) -> None:
    script({"compiler fails": "exit 1"}.get(trouble, COPY))
    if trouble == "open":
        folder.mkdir()
        folder.chmod(0o777)
    elif trouble == "a file":
        folder.write_text("")
    elif trouble == "compiler without a version":
        Path(os.environ["CXX"]).write_text("#!/bin/sh\nexit 3\n")
    done = loaded(folder.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reference | ") and re.search(words, done.stdout), done.stdout
    assert "RuntimeWarning" in done.stderr and "reference kernel" in done.stderr
