"""DVC as a process that answers one request after the other.

The process runs dvc_program.py, which takes requests from its input and gives stages another one.
DVC takes longer to start than to answer most requests.
"""

import json
import secrets
import shutil
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock, Timer
from typing import NamedTuple

from pipeline.errors import PipelineError
from pipeline.repository.dvc_files import read_if_present
from pipeline.repository.dvc_output import (
    BusyError,
    Outcome,
    StageTimeoutError,
    command_error,
    find_lock_holder,
    parse_outcomes,
    to_stage_error,
)
from pipeline.repository.processes import (
    RunCancelledError,
    SupervisedProcess,
    current_scope,
    thin_progress,
)

PROGRAM = Path(__file__).with_name("dvc_program.py")
# Environment of a request: DVC runs commands through $SHELL, so every command fails.
FAILING = {"SHELL": shutil.which("false") or "/bin/false"}
TAIL_LINES = 20  # of a failed stage's output


class Answer(NamedTuple):
    """What `dvc ARGUMENTS` gave."""

    code: int
    output: str  # empty where it went to a log
    errors: str


class DvcWorker:
    """A DVC process for requests about one workspace: `with DvcWorker(root) as dvc: …`.

    It starts at its first request, in the scope that is current then, and again after it has ended.
    Not for two threads at once: see DvcWorkerPool.
    """

    def __init__(self, root: Path, environment: Mapping[str, str] | None = None) -> None:
        self.root, self.environment = root, environment
        self._process: SupervisedProcess | None = None

    def request(
        self,
        *arguments: str,
        log: Callable[[str], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Answer:
        """Run `dvc ARGUMENTS`, with some variables set.

        With `log`, each line, DVC's errors too, goes there as soon as it is written.
        Raises RunCancelledError if the scope is cancelled before or meanwhile.
        """
        token = secrets.token_hex(16)
        content = {
            "arguments": arguments,
            "environment": dict(environment or {}),
            "separate": log is None,
            "token": token,
        }
        process = self._send(json.dumps(content))
        last_line = ""  # what follows the token

        def until_token() -> Iterator[str]:
            nonlocal last_line
            for line in process.output:
                text, found, last_line = line.partition(token)
                yield text
                if found:
                    return

        output = ""
        try:
            if log:
                for line in thin_progress(until_token()):
                    # Errors of a cancelled DVC say how it was interrupted.
                    if not (current_scope().is_cancelled and line.startswith("ERROR: ")):
                        log(line)
            else:
                output = "".join(until_token())
        except BaseException:
            process.stop()
            self.close()
            raise
        is_answered = last_line.endswith("\n")  # otherwise the process has died
        if is_answered and not current_scope().is_cancelled:
            return Answer(output=output, **json.loads(last_line))
        # A cancelled DVC that has lost its stage waits for the next request; closed, it ends now.
        code = self.close()
        self._raise_if_cancelled()
        return Answer(code or 1, output, "")

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Return what `dvc ARGUMENTS` prints; raise PipelineError in DVC's words, or BusyError."""
        code, output, errors = self.request(*arguments, environment=environment)
        if holder := find_lock_holder(errors):
            raise BusyError(holder)
        if code:
            raise command_error(("dvc", *arguments), errors)
        return output

    def reproduce(
        self,
        stage: str,
        log: Callable[[str], None],
        *,
        force: bool = False,
        timeout: float | None = None,
    ) -> Outcome:
        """Bring one stage up to date, the stages before it being so; log its lines at once.

        Raises StageError; StageTimeoutError after `timeout` seconds; BusyError while somebody else
        works on the stage's files; RunCancelledError.
        """
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        outcome = Outcome.SKIPPED  # unless DVC says that it ran or restored the stage
        is_late = Event()

        def read(line: str) -> None:
            nonlocal outcome
            log(line)
            tail.append(line)
            for name, found in parse_outcomes(line):
                outcome = found if name in (stage, "") else outcome

        def stop_late() -> None:
            is_late.set()
            self.stop()

        timer = Timer(timeout or 0, stop_late)
        if timeout:
            timer.start()
        try:
            options = ["--single-item", *["--force"] * force]
            answer = self.request("repro", *options, stage, log=read)
        finally:
            timer.cancel()
        if is_late.is_set():
            self.close()
            limit = f"{timeout:g} seconds, the meta.timeout of dvc.yaml"
            raise StageTimeoutError(f"{stage} was ended after {limit}")
        if answer.code == 0:
            return outcome
        raise to_stage_error(stage, answer.code, tail)

    def stop(self) -> None:
        """End the process, and the stage that it runs; another thread may call this."""
        if process := self._process:
            process.stop()

    def close(self) -> int:
        """Close the process's input, on which it ends; return its exit code."""
        process, self._process = self._process, None
        return process.wait() if process else 0

    def _send(self, line: str) -> SupervisedProcess:
        if self._process and not self._process.is_running():
            self.close()
        if not self._process:
            command = [sys.executable, "-P", str(PROGRAM)]
            self._process = SupervisedProcess(command, self.root, self.environment, has_input=True)
        stdin = self._process.stdin
        assert stdin
        with suppress(BrokenPipeError):  # if it has just died, it gives no answer
            stdin.write(f"{line}\n".encode())
            stdin.flush()
        return self._process

    def _raise_if_cancelled(self) -> None:
        if current_scope().is_cancelled:
            raise RunCancelledError("cancelled while DVC was at work")

    def __enter__(self) -> "DvcWorker":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class DvcWorkerPool:
    """The DVC processes of a flow run: `with DvcWorkerPool(root) as pool: …`.

    A task borrows one that is idle, or a new one; none starts before it is asked something.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = Lock()
        self._idle: list[DvcWorker] = []

    @contextmanager
    def worker(self) -> Iterator[DvcWorker]:
        with self._lock:
            worker = self._idle.pop() if self._idle else DvcWorker(self.root)
        try:
            yield worker
        finally:
            with self._lock:
                self._idle.append(worker)

    def __enter__(self) -> "DvcWorkerPool":
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            workers, self._idle = self._idle, []
        for worker in workers:
            worker.close()


def run_consistently(
    dvc: DvcWorker,
    *requests: Sequence[str],
    locks: Collection[str],
) -> list[str]:
    """Run each request while a stage may be at work; again if one of the locks changed meanwhile.

    Args:
        dvc: who is asked
        requests: the arguments of each
        locks: the dvc.lock files of the graph
    """

    def read() -> list[bytes]:
        return [read_if_present(dvc.root / lock) for lock in locks]

    while True:
        before = read()
        try:
            answers = [dvc.run(*request) for request in requests]
        except PipelineError:
            if read() == before:
                raise
        else:
            if read() == before:
                return answers
