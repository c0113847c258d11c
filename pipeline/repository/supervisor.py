"""The small program between a process and a command that it starts.

It waits for the command, and for the end of its own standard input, the lifeline that only the
starter holds open. Whatever ends the starter, SIGKILL included, cuts it. Then it ends every process
of its group.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil


def supervise(command: Sequence[str], grace: float) -> int:
    """Run `command` until it ends, the lifeline is cut or SIGTERM comes; then end all of this
    process group.
    """
    wake = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: wake.set())
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    for ended in (child.wait, lambda: os.read(sys.stdin.fileno(), 1)):
        threading.Thread(target=call_then, args=(ended, wake.set), daemon=True).start()
    wake.wait()
    if child.poll() is None:
        for process in group_members():
            # DVC leaves SIGINT to its stage while one runs, and otherwise cleans up and ends;
            # SIGTERM it does neither
            send_signal(process, signal.SIGINT if process.pid == child.pid else signal.SIGTERM)
        deadline = time.monotonic() + grace
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    for process in group_members():
        send_signal(process, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


def call_then(first: Callable[[], object], second: Callable[[], object]) -> None:
    first()
    second()


def group_members() -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter()
        if is_in_group(process.pid) and process.pid != os.getpid()
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
    sys.exit(supervise(sys.argv[2:], float(sys.argv[1])))
