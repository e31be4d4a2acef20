"""The folder that the built kernel lies in: a library is code, so nobody else may write there."""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


class UnsafeCache(RuntimeError):
    """The cache folder, or something in it, could have been written by another user."""


def folder() -> Path:
    """HETERO_NOISE_CACHE, or ``~/.cache/hetero_plugin``; it need not be there.

    Raises:
        UnsafeCache: there is no home directory to put it in.
    """
    named = os.environ.get("HETERO_NOISE_CACHE")
    try:
        chosen = Path(named).expanduser() if named else Path.home() / ".cache" / "hetero_plugin"
    except RuntimeError as error:
        raise UnsafeCache(f"no cache folder: {error} Name one in HETERO_NOISE_CACHE.") from None
    return Path(os.path.abspath(chosen))


def make(path: Path) -> None:
    """Makes the cache folder, mode 0700; one that is there is checked, and closed to readers.

    Raises:
        UnsafeCache: see ``check``.
        OSError: it can't be made; the error names it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    check(path)
    found = path.lstat()
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)


def check(path: Path) -> None:
    """That nobody but this user and root can put a file into the cache folder.

    Raises:
        UnsafeCache: it is a link or no folder, belongs to somebody else, or others may write to
            it or swap it for another; the message says what to do.
        FileNotFoundError: it is not there.
    """
    _mine(path, path.lstat(), stat.S_ISDIR, "a folder")
    # Whoever can write to a folder above can put another in its place. /tmp is sticky: they can't.
    for above in {*path.parents, *Path(os.path.realpath(path)).parents}:
        found = above.stat()
        open_to = stat.S_IWOTH if _private(found) else _WRITABLE
        strangers = found.st_uid not in (0, os.geteuid(), _unmapped())
        if strangers or (found.st_mode & open_to and not found.st_mode & stat.S_ISVTX):
            who = f"belongs to {_user(found.st_uid)}" if strangers else "others can write to it"
            raise UnsafeCache(
                f"{path}: the folder {above} above it is not safe ({who}, mode "
                f"{stat.S_IMODE(found.st_mode):04o}); {_REMEDY}"
            )


def usable(library: Path) -> bool:
    """Whether a built library is there; only if no other user can have written it.

    Raises:
        UnsafeCache: one is there, and another user could have.
    """
    try:
        check(library.parent)
        found = library.lstat()
    except FileNotFoundError:
        return False
    _mine(library, found, stat.S_ISREG, "a file")
    return True


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Holds the lock file ``path`` (made if need be, never through a link).

    Raises:
        UnsafeCache: it is a link, no file, or somebody else's.
        TimeoutError: another process kept it for longer than ``seconds``.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        handle = os.open(path, flags, 0o600)
    except OSError as error:
        if path.is_symlink():
            raise UnsafeCache(f"{path} is a symbolic link; remove it") from None
        raise UnsafeCache(f"the lock file can't be opened: {error}; remove it") from None
    try:
        _mine(path, os.fstat(handle), stat.S_ISREG, "a file")
        until = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(
                        f"another process has held {path} for over {seconds:g} s"
                    ) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(handle)


_REMEDY = "name a folder of your own in HETERO_NOISE_CACHE, or mend the mode"


def _mine(path: Path, found: os.stat_result, kind: Callable[[int], bool], word: str) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise UnsafeCache(
            f"{path} is a symbolic link, which is not followed; remove it, or name the place that "
            "it leads to in HETERO_NOISE_CACHE"
        )
    if not kind(found.st_mode):
        raise UnsafeCache(f"{path} is not {word}; remove it")
    if found.st_uid not in (0, os.geteuid()):
        raise UnsafeCache(
            f"{path} belongs to {_user(found.st_uid)}, not to {_user(os.geteuid())}; {_REMEDY}"
        )
    if found.st_mode & _WRITABLE:
        raise UnsafeCache(
            f"others can write to {path} (mode {stat.S_IMODE(found.st_mode):04o}), so what lies "
            f"there may be theirs; remove it, or chmod go-w it if you know its content"
        )


def _private(found: os.stat_result) -> bool:
    """Whether its group is the user's own (the name is theirs, nobody else is in it)."""
    try:
        user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(found.st_gid)
    except KeyError:
        return False
    return group.gr_name == user and set(group.gr_mem) <= {user}


def _unmapped() -> int:
    """Whose everything is, in a container, that belongs to a user from outside (root, mostly)."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 65534


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
