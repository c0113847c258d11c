"""Errors and signals: a line and an exit code for each."""

import signal
import subprocess
import sys

import pytest

from pipeline.errors import DataError, FetchError, ParamsError, PipelineError, run_main


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PipelineError("x"), 1),
        (ParamsError("x"), 2),
        (DataError("x"), 3),
        (FetchError("x"), 75),
        (OSError("x"), 1),
    ],
)
def test_an_expected_error_is_one_line_and_its_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        run_main(main, stop_on=())
    assert stop.value.code == code
    assert capsys.readouterr().err == "error: x\n"


def test_an_unexpected_error_keeps_its_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_main(main, stop_on=())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_one_line_and_its_exit_code_and_what_is_open_is_closed(
    number: signal.Signals,
) -> None:
    program = (
        "import os\nfrom pipeline.errors import run_main\n"
        "def main():\n try: os.kill(os.getpid(), NUMBER)\n"
        " except Exception: print('held up')\n finally: print('closed')\n"
        "run_main(main)"
    ).replace("NUMBER", str(int(number)))
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (128 + number, "closed\n")
    assert (
        result.stderr
        == f"error: stopped by {number.name}; nothing half-written is left, run it again\n"
    )
