"""What DVC's messages mean. Tests hold the wording against the pinned version."""

import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum

from pipeline.errors import PipelineError

SIGNAL_BASE = 128  # an exit code above it is this and the number of a signal


class Outcome(StrEnum):
    """What DVC did with a stage; each is the name of a state on Prefect's pages."""

    RAN = "Completed"
    RESTORED = "Restored"
    RECORDED = "Recorded"  # data that was changed by hand
    SKIPPED = "Skipped"


OUTCOME_LINES = {
    r"Running stage '(.+)':": Outcome.RAN,
    r"()Importing '.+' -> '.+'": Outcome.RAN,  # DVC does not say which stage it is
    r"Stage '(.+)' is cached - skipping run, checking out outputs ?": Outcome.RESTORED,
    r"Verifying (?:data sources in|outputs in frozen) stage: '(.+)'": Outcome.RECORDED,
    r"(?:Stage )?'(.+)' didn't change, skipping": Outcome.SKIPPED,
}


class StageError(PipelineError):
    """A stage's command ended with another exit code than 0."""

    def __init__(self, stage: str, code: int, lines: Iterable[str]) -> None:
        self.stage, self.code, self.signal = stage, code, to_signal(code)
        how = f"killed by signal {self.signal}" if self.signal else f"exit code {code}"
        super().__init__("\n".join([f"{stage} failed: {how}", *lines]))


class StageTimeoutError(PipelineError):
    """A stage took longer than its meta.timeout."""


class BusyError(PipelineError):
    """Another process works on the same files; the message is its number and command."""


def command_error(command: Sequence[str], errors: str) -> PipelineError:
    """Return the error of a refused command, with its reason."""
    return PipelineError(f"{shlex.join(command)} failed: {error_reason(errors)}")


def error_reason(errors: str) -> str:
    """Return the first line that is an error, or else the first; warnings may come before it."""
    lines = errors.strip().splitlines()
    found = [line for line in lines if re.match("(ERROR|fatal): ", line)] or lines
    return re.sub(r"^(ERROR|fatal): ", "", found[0]) if found else "it gave no reason"


def parse_outcomes(output: str) -> Iterable[tuple[str, Outcome]]:
    """Yield each stage that DVC's output names, and what DVC says that it did.

    The name of an import is empty.
    """
    for line in output.splitlines():
        for pattern, outcome in OUTCOME_LINES.items():
            if match := re.fullmatch(pattern, line):
                yield match[1], outcome


def to_stage_error(stage: str, code: int, lines: Collection[str]) -> PipelineError:
    """Tell from DVC's last lines whether the stage failed, and how, or somebody else is at work."""
    output = "\n".join(lines)
    if holder := find_lock_holder(output):
        return BusyError(holder)
    if failed := re.search(r"failed to run: .+, exited with (-?\d+)$", output, re.MULTILINE):
        code = int(failed[1])
        return StageError(stage, code if code >= 0 else SIGNAL_BASE - code, lines)
    return StageError(stage, code if to_signal(code) else 1, lines)


def to_signal(code: int) -> int | None:
    """Return the number of the signal that an exit code tells of, as shells encode it."""
    number = code - SIGNAL_BASE
    return number if number in range(1, 65) else None


def find_lock_holder(output: str) -> str | None:
    """Return who has DVC's lock on a file that the command needed."""
    found = re.search(r"it is being blocked by:\n +\(PID (\d+)\): (.+)", output)
    return f"process {found[1]}: {found[2]}" if found else None
