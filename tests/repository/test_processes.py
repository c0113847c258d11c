"""Real processes: what ends, with whom, and what is left."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from toy import wait_until

from pipeline.repository.processes import (
    CancelScope,
    RunCancelledError,
    SupervisedProcess,
    thin_progress,
)

DEAF = "import signal; [signal.signal(number, signal.SIG_IGN) for number in (2, 15)]"


def python(code: str, folder: Path, lifeline: CancelScope, grace: float = 10) -> SupervisedProcess:
    return SupervisedProcess(
        [sys.executable, "-u", "-c", textwrap.dedent(code)], lifeline, folder, os.environ, grace
    )


def test_output_comes_line_by_line_and_the_exit_code_is_the_commands(tmp_path: Path) -> None:
    with CancelScope() as lifeline:
        command = python(
            "import sys; print('one'); print('två', file=sys.stderr); sys.exit(7)",
            tmp_path,
            lifeline,
        )
        assert list(command.lines()) == ["one", "två"]
        assert command.wait() == 7


def test_a_line_is_there_before_the_next_is_written(tmp_path: Path) -> None:
    code = """
        import pathlib, time
        print("first")
        while not pathlib.Path("seen").exists():
            time.sleep(0.01)
        print("second")
    """
    with CancelScope() as lifeline:
        command = python(code, tmp_path, lifeline)
        lines = command.lines()
        assert next(lines) == "first"
        (tmp_path / "seen").touch()
        assert list(lines) == ["second"]
        assert command.wait() == 0


def test_a_signal_is_an_exit_code_above_128(tmp_path: Path) -> None:
    with CancelScope() as lifeline:
        command = python("import os; os.kill(os.getpid(), 9)", tmp_path, lifeline)
        assert list(command.lines()) == []
        assert command.wait() == 128 + 9


@pytest.mark.parametrize("end", [CancelScope.cancel, None], ids=["cut", "stop"])
@pytest.mark.parametrize("deaf", ["pass", DEAF], ids=["listening", "deaf"])
def test_the_whole_tree_ends(tmp_path: Path, end: object, deaf: str) -> None:
    code = f"""
        import os, subprocess, sys, time
        {deaf}
        child = subprocess.Popen([sys.executable, "-c", "{deaf}; import time; time.sleep(600)"])
        time.sleep(0.3)
        print(os.getpid(), child.pid)
        time.sleep(600)
    """
    with CancelScope() as lifeline:
        command = python(code, tmp_path, lifeline, grace=0.5)
        processes = [psutil.Process(int(pid)) for pid in next(command.lines()).split()]
        lifeline.cancel() if end else command.stop()
        assert command.wait() != 0
        wait_until(lambda: not any(process.is_running() for process in processes))


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    code = """
        import subprocess, sys
        print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
    """
    with CancelScope() as lifeline:
        command = python(code, tmp_path, lifeline)
        [pid] = command.lines()
        assert command.wait() == 0
        wait_until(lambda: not psutil.pid_exists(int(pid)))


def test_everything_ends_with_a_starter_that_is_killed(tmp_path: Path) -> None:
    code = """
        import os, sys
        from pathlib import Path
        from pipeline.repository.processes import Command, CancelScope
        stay = "import os, time; print(os.getpid()); time.sleep(600)"
        command = Command([sys.executable, "-u", "-c", stay], CancelScope(), Path.cwd(), os.environ)
        print(next(command.lines()), flush=True)
        command.wait()
    """
    starter = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout
    with starter.stdout:
        process = psutil.Process(int(starter.stdout.readline()))
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    wait_until(lambda: not process.is_running())


def test_nothing_starts_on_a_scope_that_is_cut(tmp_path: Path) -> None:
    with CancelScope() as lifeline:
        lifeline.cancel()
        with pytest.raises(RunCancelledError):
            python("pass", tmp_path, lifeline)


def test_progress_bars_are_reduced_to_quarters() -> None:
    bar = [f"epoch 1: {percent:3}%|███| {percent}/100\r" for percent in range(100)]
    lines = ["before\n", *bar, "epoch 1: 100%|███| 100/100\n", "spinning /\r", "\n", "after\n"]
    assert [line[:13] for line in thin_progress(lines)] == [
        "before",
        "epoch 1:  25%",
        "epoch 1:  50%",
        "epoch 1:  75%",
        "epoch 1: 100%",
        "after",
    ]
