"""The errors that a user can mend, each with its exit code.

PipelineError    1   any other of ours, a full disk, a missing permission
  ParamsError    2   a value in params.yaml or dvc.yaml is wrong: edit it
  DataError      3   a data or model file is wrong: make it again
  FetchError    75   no source answered: try again later (EX_TEMPFAIL of sysexits.h)

A run that a signal stopped exits with 128 plus the signal's number, as in a shell.
"""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Never

STOPPING = (signal.SIGINT, signal.SIGTERM)


class PipelineError(Exception):
    """The message says what was found, what is allowed and what to do."""

    exit_code = 1


class ParamsError(PipelineError):
    exit_code = 2


class DataError(PipelineError):
    exit_code = 3


class FetchError(PipelineError):
    exit_code = 75


def run_main(main: Callable[[], None], stop_on: tuple[signal.Signals, ...] = STOPPING) -> None:
    """Run a program's `main`; end with a message and an exit code where a user can mend the error.

    A signal of `stop_on` ends it in the same way. Any other error keeps its traceback.
    """
    for number in stop_on:
        signal.signal(number, exit_on_signal)
    try:
        main()
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(PipelineError.exit_code)


def exit_on_signal(number: int, frame: FrameType | None) -> Never:
    """Handle a signal: raise SystemExit, so that `finally` blocks remove half-written files."""
    for again in STOPPING:
        signal.signal(again, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the cleaning up
    name = signal.Signals(number).name
    print(f"error: stopped by {name}; nothing half-written is left, run it again", file=sys.stderr)
    sys.exit(128 + number)
