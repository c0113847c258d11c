"""A command in a process group of its own, all of which ends when the process that started it does.

This file is also the small program between the two: it waits for the command, and for the end of its own standard
input, the lifeline that only the starter holds open. Whatever ends the starter, SIGKILL included, cuts it.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType

import psutil

from pipeline.errors import PipelineError

GRACE = 10.0  # seconds between asking processes to end and killing them


class StoppedError(PipelineError):
    """The lifeline was cut."""


class Lifeline:
    """Cut, with the one it hangs on, or lost with this process, it ends every command that hangs on it."""

    def __init__(self, above: "Lifeline | None" = None) -> None:
        self.lock = threading.Lock()
        self.is_cut = False
        self.read_end, self._write_end = os.pipe()
        self._below: list[Lifeline] = []
        if above:
            above.carry(self)

    def carry(self, other: "Lifeline") -> None:
        with self.lock:
            self._below.append(other)
            is_cut = self.is_cut
        if is_cut:
            other.cut()

    def cut(self) -> None:
        with self.lock:
            if not self.is_cut:
                self.is_cut = True
                os.close(self._write_end)
                os.close(self.read_end)
        for other in self._below:
            other.cut()

    def __enter__(self) -> "Lifeline":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cut()


class Command:
    """A running command; its output is read through `lines`, its exit code through `wait`.

    Raises StoppedError where the lifeline is cut already.
    """

    def __init__(
        self,
        command: Sequence[str],
        lifeline: Lifeline,
        folder: Path,
        environment: Mapping[str, str],
        grace: float = GRACE,
    ) -> None:
        with lifeline.lock:
            if lifeline.is_cut:
                raise StoppedError("stopped before it started")
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pipeline.supervisor", str(grace), *command],
                cwd=folder,
                env=environment,
                stdin=lifeline.read_end,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        assert self._process.stdout
        # newline="" keeps the \r that tells a progress bar
        self._output = TextIOWrapper(self._process.stdout, encoding="utf-8", errors="replace", newline="")

    def lines(self) -> Iterator[str]:
        """Yield each line as it is written; of a progress bar, each quarter."""
        return reduce_bars(self._output)

    def read(self) -> tuple[int, list[str]]:
        """Wait for its end, and end it where this is interrupted; return its exit code and its lines."""
        try:
            lines = list(self.lines())
        except BaseException:
            self.stop()
            raise
        finally:
            code = self.wait()
        return code, lines

    def stop(self) -> None:
        """Ask every process of the group to end, and kill those that have not after the grace."""
        self._process.terminate()

    def wait(self) -> int:
        """Return the exit code; above 128 it is 128 and the number of the signal that ended the command."""
        with self._output:
            code = self._process.wait()
        return code if code >= 0 else 128 - code


def reduce_bars(lines: Iterable[str]) -> Iterator[str]:
    """Yield what ends in a newline, and of what is overwritten (`\\r`) the first at or over each quarter."""
    shown: dict[str, int] = {}
    for line in lines:
        text = line.rstrip()
        if line.endswith("\r"):
            bar = re.match(r"(.*?)(\d+)%", text)
            quarter = int(bar[2]) // 25 if bar else 0
            if not bar or quarter <= shown.get(bar[1], 0):
                continue
            shown[bar[1]] = quarter
        if text:
            yield text


def supervise(command: Sequence[str], grace: float) -> int:
    """Run `command` until it ends, the lifeline is cut or SIGTERM comes; then end all of this process group."""
    wake = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: wake.set())
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    for ended in (child.wait, lambda: os.read(sys.stdin.fileno(), 1)):
        threading.Thread(target=call_then, args=(ended, wake.set), daemon=True).start()
    wake.wait()
    if child.poll() is None:
        for process in rest_of_group():
            # DVC leaves SIGINT to its stage while one runs, and otherwise cleans up and ends; SIGTERM it does neither
            send(process, signal.SIGINT if process.pid == child.pid else signal.SIGTERM)
        deadline = time.monotonic() + grace
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    for process in rest_of_group():
        send(process, signal.SIGKILL)
    code = child.wait()
    return code if code >= 0 else 128 - code


def call_then(first: Callable[[], object], second: Callable[[], object]) -> None:
    first()
    second()


def rest_of_group() -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if in_group(process.pid) and process.pid != os.getpid()]


def in_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == os.getpgrp()
    except ProcessLookupError:
        return False


def send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


if __name__ == "__main__":
    sys.exit(supervise(sys.argv[2:], float(sys.argv[1])))
