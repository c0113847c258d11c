"""The small program between a process and a command that it starts.

Usage: supervisor.py PIPE GRACE COMMAND…. PIPE is the number of an open file that ends when the
command is to end. The program waits for the command, for the end of that file and for SIGTERM.
Then it asks every process of its group to end, and kills them after GRACE seconds.

It is run by its path and imports nothing of the package.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil


def supervise(command: Sequence[str], pipe: int, grace: float) -> int:
    """Run `command` with this program's input; return its exit code, 128 + N for signal N."""
    wake = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: wake.set())
    child = subprocess.Popen(command)

    def wait_for_command() -> None:
        child.wait()
        wake.set()

    def wait_for_pipe() -> None:
        os.read(pipe, 1)  # returns when the last process that can write to it is gone
        wake.set()

    for waiting in (wait_for_command, wait_for_pipe):
        threading.Thread(target=waiting, daemon=True).start()
    wake.wait()
    if child.poll() is None:
        for process in group_members():
            # DVC leaves SIGINT to its stage while one runs, and otherwise cleans up and ends;
            # at SIGTERM it does neither
            is_child = process.pid == child.pid
            send_signal(process, signal.SIGINT if is_child else signal.SIGTERM)
        deadline = time.monotonic() + grace
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    for process in group_members():
        send_signal(process, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


def group_members() -> list[psutil.Process]:
    """Return the other processes of this program's group."""
    own = os.getpid()
    return [
        process
        for process in psutil.process_iter()
        if process.pid != own and is_in_group(process.pid)
    ]


def is_in_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == os.getpgrp()
    except ProcessLookupError:
        return False


def send_signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[3:], pipe=int(sys.argv[1]), grace=float(sys.argv[2])))
