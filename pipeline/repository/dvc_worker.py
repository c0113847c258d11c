"""DVC in a subprocess: questions, and stages brought up to date. All of its wording is read here.

DVC is driven through its command line, with this interpreter's folder first on PATH. The wording
that is relied on is held by tests against the pinned version.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Timer
from typing import IO

from pipeline.errors import PipelineError
from pipeline.repository.dvc_files import LOCK, read_if_present
from pipeline.repository.processes import (
    CancelScope,
    RunCancelledError,
    SupervisedProcess,
    subprocess_environment,
)

DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")


# one command of `dvc` for each line, and its exit code after its output
ANSWER = """
import json, os, sys
from dvc.cli import main
root = os.getcwd()
for line in sys.stdin:
    print(f"\\0{main(['--wait-for-lock', *json.loads(line)])}", flush=True)
    os.chdir(root)
"""


TAIL_LINES = 20  # of a failed stage's output
SIGNAL_BASE = 128  # an exit code above it is this and the number of a signal


class Outcome(StrEnum):
    """What DVC did; each is the name of a state on Prefect's pages."""

    RAN = "Completed"
    RESTORED = "Restored"
    SKIPPED = "Skipped"


class StageError(PipelineError):
    """A stage's command ended with another exit code than 0."""

    def __init__(self, stage: str, code: int, lines: Iterable[str]) -> None:
        self.stage, self.code = stage, code
        how = (
            f"killed by signal {code - SIGNAL_BASE}" if code > SIGNAL_BASE else f"exit code {code}"
        )
        super().__init__("\n".join([f"{stage} failed: {how}", *lines]))


class StageTimeoutError(PipelineError):
    pass


class BusyError(PipelineError):
    """Another process works on the stage's files; the message is its number and command."""


@dataclass(frozen=True)
class DvcWorker:
    """A DVC process that answers one question after the other, because its start takes longer than
    most answers.
    """

    root: Path
    process: "subprocess.Popen[str]"
    errors: IO[bytes]

    def run(self, *arguments: str) -> str:
        """Return what `dvc ARGUMENTS` prints; raise PipelineError in its own words, or
        BusyError.
        """
        code, answer, errors = self.request(*arguments)
        if holder := find_lock_holder(errors):
            raise BusyError(holder)
        if code:
            raise command_error(("dvc", *arguments), errors)
        return answer

    def request(self, *arguments: str) -> tuple[int, str, str]:
        """Return the exit code of `dvc ARGUMENTS`, its output and its errors."""
        assert self.process.stdin and self.process.stdout
        told = os.fstat(self.errors.fileno()).st_size
        with suppress(BrokenPipeError):  # where it has died, and answers nothing
            self.process.stdin.write(json.dumps(arguments) + "\n")
            self.process.stdin.flush()
        answer, end, code = "", "", "1"
        while not end and (line := self.process.stdout.readline()):
            text, end, code = line.partition("\0")
            answer += text
        errors = os.pread(self.errors.fileno(), 1 << 20, told).decode(errors="replace")
        return int(code or 1), answer, errors


@contextmanager
def dvc_in(root: Path) -> Iterator[DvcWorker]:
    """Have a DVC for questions about `root`; it runs no stage, whose command would fail in it."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", ANSWER],
            cwd=root,
            env=subprocess_environment() | {"SHELL": shutil.which("false") or "/bin/false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield DvcWorker(root, process, errors)
        finally:
            process.communicate()


def ask(root: Path, *arguments: str) -> str:
    """Return what `dvc ARGUMENTS` prints in `root`; raise PipelineError in its own words, or
    BusyError.
    """
    with dvc_in(root) as dvc:
        return dvc.run(*arguments)


def run_consistently(root: Path, *questions: Sequence[str]) -> list[str]:
    """Ask while a stage may be at work: what DVC said while it wrote dvc.lock anew is asked
    again.
    """
    with dvc_in(root) as dvc:
        while True:
            before = read_if_present(root / LOCK)
            try:
                answers = [dvc.run(*question) for question in questions]
            except PipelineError:
                if read_if_present(root / LOCK) == before:
                    raise
            else:
                if read_if_present(root / LOCK) == before:
                    return answers


def command_error(command: Sequence[str], errors: str) -> PipelineError:
    reason = re.sub(r"^(ERROR|fatal): ", "", errors.strip().partition("\n")[0])
    return PipelineError(f"{shlex.join(command)} failed: {reason or 'it gave no reason'}")


def parse_outcomes(output: str) -> Iterable[tuple[str, Outcome]]:
    """Yield each stage that DVC's output names, and what DVC says that it did."""
    for line in output.splitlines():
        if match := re.fullmatch(r"Running stage '(.+)':", line):
            yield match[1], Outcome.RAN
        elif match := re.fullmatch(
            r"Stage '(.+)' is cached - skipping run, checking out outputs ?", line
        ):
            yield match[1], Outcome.RESTORED
        elif match := re.fullmatch(r"Stage '(.+)' didn't change, skipping", line):
            yield match[1], Outcome.SKIPPED


class Chain:
    """Stages in a row, which one DVC process brings up to date; after a failure, a new one
    goes on.
    """

    def __init__(
        self, root: Path, stages: Sequence[str], lifeline: CancelScope, *, force: bool = False
    ) -> None:
        self.root, self.stages, self.lifeline, self.force = root, stages, lifeline, force
        self._command: SupervisedProcess | None = None
        self._lines: Iterator[str] = iter(())  # those not read yet

    def reproduce(
        self, stage: str, log: Callable[[str], None], timeout: float | None = None
    ) -> Outcome:
        """Bring the next stage up to date, those before it being so; hand every line it writes to
        `log` at once.

        Raises StageError, StageTimeoutError after `timeout` seconds, StoppedError once the lifeline
        is cut, BusyError while somebody else works on the stage; after each of them no process of
        the chain is left.
        """
        after = self.stages[self.stages.index(stage) + 1 :]
        if not self._command:
            arguments = [*DVC, "repro", "--single-item", *["--force"] * self.force, stage, *after]
            self._command = SupervisedProcess(
                arguments, self.lifeline, self.root, subprocess_environment()
            )
            self._lines = self._command.lines()
        timer = Timer(timeout or 0, self._command.stop)
        if timeout:
            timer.start()
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        outcome, goes_on = Outcome.SKIPPED, False
        try:
            for line in self._lines:
                if find_stage(line) in after:  # so this one is done
                    self._lines, goes_on = itertools.chain([line], self._lines), True
                    break
                log(line)
                tail.append(line)
                outcome = dict(parse_outcomes(line)).get(stage, outcome)
        except BaseException:
            self._command.stop()
            raise
        finally:
            is_late = bool(timeout) and not timer.is_alive()
            timer.cancel()
            goes_on = goes_on and not is_late
            if not goes_on:
                code, self._command = self._command.wait(), None
        if goes_on or code == 0:
            return outcome
        if self.lifeline.is_cancelled:
            raise RunCancelledError(f"{stage} was stopped")
        if is_late:
            raise StageTimeoutError(
                f"{stage} was ended after {timeout:g} seconds, the meta.timeout of dvc.yaml"
            )
        raise to_stage_error(stage, code, tail)


def find_stage(line: str) -> str | None:
    """The stage of which DVC says that it begins with it, or that it cannot."""
    refused = re.match(r"ERROR: failed to reproduce '(.+?)'", line)
    return refused[1] if refused else next((stage for stage, _ in parse_outcomes(line)), None)


def to_stage_error(stage: str, code: int, lines: Collection[str]) -> PipelineError:
    """Tell from DVC's last words whether the stage failed, and how, or somebody else is at work on
    its files.
    """
    output = "\n".join(lines)
    if holder := find_lock_holder(output):
        return BusyError(holder)
    if failed := re.search(r"failed to run: .+, exited with (-?\d+)$", output, re.MULTILINE):
        code = int(failed[1])
        return StageError(stage, code if code >= 0 else SIGNAL_BASE - code, lines)
    return StageError(stage, code if code in range(SIGNAL_BASE + 1, SIGNAL_BASE + 65) else 1, lines)


def find_lock_holder(output: str) -> str | None:
    """Who has DVC's lock on a file that it needed."""
    found = re.search(r"it is being blocked by:\n +\(PID (\d+)\): (.+)", output)
    return f"process {found[1]}: {found[2]}" if found else None
