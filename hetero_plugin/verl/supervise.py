"""Runs a command and ends it, with all that it started, once the process that asked is gone.

A script of its own, which imports nothing of the package: ``python supervise.py COMMAND …`` in a
new session, its standard input a pipe whose other end the asking process holds. The kernel closes
that end however the process ends, also by SIGKILL, when nothing of it can still act. Without this a
training run that lost its runner would go on writing into the folder in which the next one begins.
"""

import os
import signal
import subprocess
import sys
import threading
import time

PATIENCE = 5.0
"""Seconds from SIGTERM to SIGKILL."""


_ending = threading.Event()


def _follow() -> None:
    """Waits for the end of the asking process, then ends this process's group."""
    while os.read(0, 4096):
        pass
    _ending.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(PATIENCE)
    os.killpg(0, signal.SIGKILL)  # this process too


def main() -> None:
    """Exits with the command's status; 128 and the signal's number where one ended it."""
    # A group that is ended by whoever asked: this process leaves when its command has. A handler
    # is not inherited by the command, which "ignore" would be.
    signal.signal(signal.SIGTERM, lambda *_: None)
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    follower = threading.Thread(target=_follow, daemon=True)
    follower.start()
    status = command.wait()
    if _ending.is_set():
        follower.join()  # what the command started may not have heeded SIGTERM
    os._exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
