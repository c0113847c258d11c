"""Real processes: what ends, with whom, and what is left."""

import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import psutil
import pytest
from toy import wait_until

from pipeline.repository.processes import (
    CancelScope,
    RunCancelledError,
    SupervisedProcess,
    current_scope,
    subprocess_environment,
    thin_progress,
)

DEAF = "import signal; [signal.signal(number, signal.SIG_IGN) for number in (2, 15)]"


def python(code: str, folder: Path, **options: Any) -> SupervisedProcess:
    return SupervisedProcess([sys.executable, "-u", "-c", textwrap.dedent(code)], folder, **options)


def test_output_comes_line_by_line_and_the_exit_code_is_the_commands(tmp_path: Path) -> None:
    with CancelScope():
        command = python(
            "import sys; print('one'); print('två', file=sys.stderr); sys.exit(7)",
            tmp_path,
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
    with CancelScope():
        command = python(code, tmp_path)
        lines = command.lines()
        assert next(lines) == "first"
        (tmp_path / "seen").touch()
        assert list(lines) == ["second"]
        assert command.wait() == 0


def test_a_signal_is_an_exit_code_above_128(tmp_path: Path) -> None:
    with CancelScope():
        command = python("import os; os.kill(os.getpid(), 9)", tmp_path)
        assert list(command.lines()) == []
        assert command.wait() == 128 + 9


@pytest.mark.parametrize("end", [CancelScope.cancel, None], ids=["cancel", "stop"])
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
    with CancelScope() as scope:
        command = python(code, tmp_path, grace=0.5)
        processes = [psutil.Process(int(pid)) for pid in next(command.lines()).split()]
        scope.cancel() if end else command.stop()
        assert command.wait() != 0
        wait_until(lambda: not any(process.is_running() for process in processes))


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    code = """
        import subprocess, sys
        print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
    """
    with CancelScope():
        command = python(code, tmp_path)
        [pid] = command.lines()
        assert command.wait() == 0
        wait_until(lambda: not psutil.pid_exists(int(pid)))


def test_everything_ends_with_a_starter_that_is_killed(tmp_path: Path) -> None:
    code = """
        import os, sys
        from pathlib import Path
        from pipeline.repository.processes import SupervisedProcess
        stay = "import os, time; print(os.getpid()); time.sleep(600)"
        command = SupervisedProcess([sys.executable, "-u", "-c", stay], Path.cwd())
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


def test_nothing_starts_in_a_cancelled_scope(tmp_path: Path) -> None:
    with CancelScope() as scope:
        scope.cancel()
        with pytest.raises(RunCancelledError):
            python("pass", tmp_path)


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


def test_a_scope_is_the_current_one_of_its_block_and_its_threads() -> None:
    outside = current_scope()
    with CancelScope() as outer:
        assert current_scope() is outer
        with CancelScope() as inner:
            assert current_scope() is inner
            with ThreadPoolExecutor() as threads:
                copied = threads.submit(copy_context().run, current_scope)
                empty = threads.submit(current_scope)
            assert copied.result() is inner
            assert empty.result() is outside
        assert current_scope() is outer
        assert inner.is_cancelled
        assert not outer.is_cancelled
    assert current_scope() is outside
    assert not outside.is_cancelled


def test_a_cancelled_scope_cancels_those_inside_it(tmp_path: Path) -> None:
    with CancelScope() as outer, CancelScope():
        command = python("import time; print('here'); time.sleep(600)", tmp_path)
        assert next(command.lines()) == "here"
        outer.cancel()
        assert current_scope().is_cancelled
        assert command.wait() != 0
        with pytest.raises(RunCancelledError):
            current_scope().raise_if_cancelled()
        with CancelScope() as late:
            assert late.is_cancelled


def test_a_command_reads_what_is_written_to_it(tmp_path: Path) -> None:
    with CancelScope():
        command = python("print(input())", tmp_path, has_input=True)
        assert command.stdin
        command.stdin.write(b"hello\n")
        command.stdin.flush()
        assert list(command.lines()) == ["hello"]
        assert command.wait() == 0


def test_a_clean_environment_has_nothing_that_points_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GIT_DIR", "GIT_SSH_COMMAND", "DVC_SITE_CACHE_DIR", "PYTHONPATH"):
        monkeypatch.setenv(name, "elsewhere")
    assert "elsewhere" not in subprocess_environment(clean=True).values()
    kept = [name for name, value in subprocess_environment().items() if value == "elsewhere"]
    assert sorted(kept) == ["DVC_SITE_CACHE_DIR", "GIT_SSH_COMMAND", "PYTHONPATH"]
