"""What can go wrong for a user, and the exit code that says which.

PipelineError    1   anything below, or a full disk, a missing permission
  ParamsError    2   params.yaml is wrong: edit it
  DataError      3   a data or model file is not what it should be: make it again
  FetchError    75   no source answered: try again later (EX_TEMPFAIL of sysexits.h)
A signal that stops a run is 128 more than its number, as in a shell.
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
    """Run a stage; an error the user can mend, or a signal, is one message and an exit code, not a
    traceback.
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
    """Leave by an exception that no `except Exception` holds up, so that whatever is half-written
    is removed.
    """
    for again in STOPPING:
        signal.signal(again, signal.SIG_IGN)  # while things are put in order
    print(
        f"error: stopped by {signal.Signals(number).name}; nothing half-written is left, run it"
        " again",
        file=sys.stderr,
    )
    sys.exit(128 + number)
