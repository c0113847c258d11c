"""Commands in a process group of their own, all of which ends when the process that started it
does.
"""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType

from pipeline.errors import PipelineError

GRACE = 10.0  # seconds between asking processes to end and killing them


class RunCancelledError(PipelineError):
    """The lifeline was cut."""


class CancelScope:
    """Cut, with the one it hangs on, or lost with this process, it ends every command that hangs on
    it.
    """

    def __init__(self, above: "CancelScope | None" = None) -> None:
        self.lock = threading.Lock()
        self.is_cancelled = False
        self.read_end, self._write_end = os.pipe()
        self._below: list[CancelScope] = []
        if above:
            above.add_child(self)

    def add_child(self, other: "CancelScope") -> None:
        with self.lock:
            self._below.append(other)
            is_cut = self.is_cancelled
        if is_cut:
            other.cancel()

    def cancel(self) -> None:
        with self.lock:
            if not self.is_cancelled:
                self.is_cancelled = True
                os.close(self._write_end)
                os.close(self.read_end)
        for other in self._below:
            other.cancel()

    def __enter__(self) -> "CancelScope":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.cancel()


class SupervisedProcess:
    """A running command; its output is read through `lines`, its exit code through `wait`.

    Raises StoppedError where the lifeline is cut already.
    """

    def __init__(
        self,
        command: Sequence[str],
        lifeline: CancelScope,
        folder: Path,
        environment: Mapping[str, str],
        grace: float = GRACE,
    ) -> None:
        with lifeline.lock:
            if lifeline.is_cancelled:
                raise RunCancelledError("stopped before it started")
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "pipeline.repository.supervisor",
                    str(grace),
                    *command,
                ],
                cwd=folder,
                env=environment,
                stdin=lifeline.read_end,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        assert self._process.stdout
        # newline="" keeps the \r that tells a progress bar
        self._output = TextIOWrapper(
            self._process.stdout, encoding="utf-8", errors="replace", newline=""
        )

    def lines(self) -> Iterator[str]:
        """Yield each line as it is written; of a progress bar, each quarter."""
        return thin_progress(self._output)

    def read(self) -> tuple[int, list[str]]:
        """Wait for its end, and end it where this is interrupted; return its exit code and its
        lines.
        """
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
        """Return the exit code; above 128 it is 128 and the number of the signal that ended the
        command.
        """
        with self._output:
            code = self._process.wait()
        return code if code >= 0 else 128 - code


def thin_progress(lines: Iterable[str]) -> Iterator[str]:
    """Yield what ends in a newline, and of what is overwritten (`\\r`) the first at or over each
    quarter.
    """
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


# what a Git hook or a person may have set, and what points away from the folder that is worked in
DROPPED_VARIABLES = (
    "GIT_DIR",
    "GIT_COMMON_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "PYTHONSAFEPATH",
)


def subprocess_environment() -> dict[str, str]:
    """Stages are `python -m …`: the python that DVC's shell finds must be this one, and the code
    that of its folder.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    ours = {name: value for name, value in os.environ.items() if name not in DROPPED_VARIABLES}
    return ours | {"PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}
