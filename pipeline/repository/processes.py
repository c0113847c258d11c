"""Commands that end with a scope: when it is cancelled, and when this process dies.

A command runs in a process group of its own, started by a small program (supervisor.py) that ends
the whole group. The scope is the current one of its context (contextvars), so that nobody hands it
on: a task that Prefect runs in another thread, and a flow inside a flow, find it.
"""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from typing import IO

from pipeline.errors import PipelineError

SUPERVISOR = Path(__file__).with_name("supervisor.py")
GRACE = 10.0  # seconds between asking processes to end and killing them
# Set by a Git hook or a person, these point away from the folder that a command works in.
DROPPED_VARIABLES = (
    "GIT_DIR",
    "GIT_COMMON_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "PYTHONSAFEPATH",  # `python -m pipeline…` would not find the folder's own code
)
CONFIGURING_PREFIXES = ("GIT_", "DVC_", "PYTHONPATH")  # dropped, too, for a clean environment


class RunCancelledError(PipelineError):
    """The scope of the work was cancelled."""


class CancelScope:
    """Commands that end together: `with CancelScope() as scope: …`.

    Inside the block it is the current scope, a child of the one outside. Cancelling a scope ends
    its commands and its children's. Leaving the block cancels it too, so nothing outlives it.

    Each command holds the read end of a pipe. Only this process holds the write end, so the pipe
    closes with this process, even when it is killed.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_cancelled = False
        self.read_end, self._write_end = os.pipe()
        self._children: list[CancelScope] = []
        self._parent = _current.get()
        if self._parent:
            self._parent.add_child(self)

    def add_child(self, child: "CancelScope") -> None:
        with self.lock:
            self._children.append(child)
            is_cancelled = self.is_cancelled
        if is_cancelled:
            child.cancel()

    def cancel(self) -> None:
        """End all commands of this scope and its children; does not wait for them."""
        with self.lock:
            if not self.is_cancelled:
                self.is_cancelled = True
                os.close(self._write_end)
                os.close(self.read_end)
            children = list(self._children)
        for child in children:
            child.cancel()

    def raise_if_cancelled(self) -> None:
        """Raise RunCancelledError if the scope is cancelled; for work that is no command."""
        if self.is_cancelled:
            raise RunCancelledError("cancelled")

    def __enter__(self) -> "CancelScope":
        self._token = _current.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        _current.reset(self._token)
        self.cancel()
        if self._parent:
            with self._parent.lock:
                self._parent._children.remove(self)


_current: ContextVar[CancelScope | None] = ContextVar("cancel_scope", default=None)


def current_scope() -> CancelScope:
    """Return the innermost scope; outside of any, one that ends with this process."""
    return _current.get() or _process_scope()


@cache
def _process_scope() -> CancelScope:
    return CancelScope()


class SupervisedProcess:
    """A running command of the current scope.

    Its output, with its errors, is read through `lines`, its exit code through `wait`. With
    `has_input`, what is written to `stdin` reaches it. Raises RunCancelledError if the scope is
    cancelled already.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        has_input: bool = False,
        grace: float = GRACE,
    ) -> None:
        scope = current_scope()
        with scope.lock:
            if scope.is_cancelled:
                raise RunCancelledError("cancelled before it started")
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(SUPERVISOR), str(scope.read_end), str(grace), *command],
                cwd=folder,
                env=subprocess_environment() if environment is None else environment,
                stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[scope.read_end],
                start_new_session=True,
            )
        assert self._process.stdout
        self.stdin: IO[bytes] | None = self._process.stdin
        # newline="" keeps the \r that tells a progress bar
        self.output = TextIOWrapper(
            self._process.stdout, encoding="utf-8", errors="replace", newline=""
        )

    def lines(self) -> Iterator[str]:
        """Yield each line as it is written; of a progress bar, each quarter."""
        return thin_progress(self.output)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Ask every process of the group to end, and kill those that have not after the grace."""
        self._process.terminate()

    def wait(self) -> int:
        """Return the exit code; 128 more than its number if a signal ended the command."""
        if self.stdin:
            self.stdin.close()
        with self.output:
            code = self._process.wait()
        return code if code >= 0 else 128 - code


def run_supervised(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, list[str]]:
    """Run a command of the current scope to its end; return its exit code and its lines."""
    process = SupervisedProcess(command, folder, environment)
    try:
        lines = list(process.lines())
    except BaseException:
        process.stop()
        raise
    finally:
        code = process.wait()
    return code, lines


def thin_progress(lines: Iterable[str]) -> Iterator[str]:
    """Yield whole lines; of a progress bar (`\\r`), the first at or over each quarter."""
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


def subprocess_environment(*, clean: bool = False) -> dict[str, str]:
    """Return the variables for a command.

    Stages are `python -m …`: the python that DVC's shell finds must be this one. With `clean`,
    nothing that a person has set points Git, DVC or Python elsewhere.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    dropped = CONFIGURING_PREFIXES if clean else ()
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in DROPPED_VARIABLES and not name.startswith(dropped)
    }
    return kept | {"PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}
