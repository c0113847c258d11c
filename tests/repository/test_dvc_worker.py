"""A real DVC that is asked and runs stages.

Its wording is what dvc_output.py relies on; these tests hold it to the pinned version.
"""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from pathlib import Path
from threading import Thread

import pytest
import zc.lockfile
from toy import (
    ATTEMPTS,
    CHAIN,
    ORDER,
    STAY,
    append,
    assert_that_nothing_is_left,
    execute,
    make_workspace,
    processes_in,
    wait_for_pids,
    wait_until,
)

from pipeline.errors import PipelineError
from pipeline.repository.dvc_output import BusyError, Outcome, StageError, StageTimeoutError
from pipeline.repository.dvc_worker import DvcWorker, DvcWorkerPool, run_consistently
from pipeline.repository.processes import CancelScope, RunCancelledError


def run(folder: Path, stage: str) -> tuple[Outcome, list[str]]:
    lines: list[str] = []
    with DvcWorker(folder) as dvc:
        return dvc.reproduce(stage, lines.append), lines


def test_the_three_outcomes_in_dvcs_words(fresh: Path) -> None:
    assert run(fresh, "first") == (
        Outcome.SKIPPED,
        ["Stage 'first' didn't change, skipping", "Data and pipelines are up to date."],
    )
    append(fresh / "first.py", "# changed\n")
    outcome, lines = run(fresh, "first")
    assert outcome is Outcome.RAN
    assert lines[0] == "Running stage 'first':"
    execute(fresh, "git", "checkout", "--quiet", "first.py")
    outcome, lines = run(fresh, "first")
    assert outcome is Outcome.RESTORED
    assert lines[0] == "Stage 'first' is cached - skipping run, checking out outputs"


def test_a_failed_stage_tells_how_and_its_last_lines(tmp_path: Path) -> None:
    script = "import sys; print(*range(40), sep='\\n', flush=True); sys.exit('no such luck')"
    folder = make_workspace(tmp_path / "fails", {"only": script})
    with pytest.raises(StageError) as failure:
        run(folder, "only")
    assert failure.value.code == 1
    first, *lines = str(failure.value).splitlines()
    assert first == "only failed: exit code 1"
    assert len(lines) == 20
    assert "no such luck" in lines


@pytest.mark.parametrize("code", [2, 75, 255])
def test_the_exit_code_is_the_stages(tmp_path: Path, code: int) -> None:
    folder = make_workspace(tmp_path / "exits", {"only": f"raise SystemExit({code})"})
    with pytest.raises(StageError, match=f"only failed: exit code {code}") as failure:
        run(folder, "only")
    assert failure.value.code == code


def test_a_killed_stage_is_told_from_one_that_failed(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "killed", {"only": "import os; os.kill(os.getpid(), 9)"})
    with pytest.raises(StageError, match="only failed: killed by signal 9"):
        run(folder, "only")


def test_what_dvc_itself_refuses_is_a_failure_in_its_words(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "refused", {"only": ""})
    (folder / "only.py").unlink()
    with pytest.raises(StageError, match=r"only failed: exit code 1\n.*only.py"):
        run(folder, "only")


def test_a_refusal_quotes_the_error_and_not_the_warning_before_it(fresh: Path) -> None:
    execute(fresh, "dvc", "freeze", "second")
    (fresh / "second.txt").unlink()
    with DvcWorker(fresh) as dvc:
        assert dvc.request("repro", "second").errors.startswith("WARNING: ")
        with pytest.raises(PipelineError, match=r"^dvc repro second failed: failed to reproduce"):
            dvc.run("repro", "second")


SHOW_DVC = """
import psutil
print("by", next(p.pid for p in psutil.Process().parents() if "dvc_program" in str(p.cmdline())))
"""


def run_stages(folder: Path, **steps: type[Exception] | None) -> list[str]:
    """Bring the stages up to date in turn; return the lines or the error of each."""
    written = []
    with DvcWorker(folder) as dvc:
        for name, error in steps.items():
            stage, lines = name.rstrip("_"), list[str]()
            if error:
                with pytest.raises(error) as raised:
                    timeout = 1 if error is StageTimeoutError else None
                    dvc.reproduce(stage, lines.append, timeout=timeout)
                written.append(str(raised.value))
            else:
                assert dvc.reproduce(stage, lines.append) is Outcome.RAN
                written.append("\n".join(lines))
    return written


def test_one_dvc_process_does_all_stages(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "stages", dict.fromkeys(CHAIN, SHOW_DVC), ORDER)
    written = run_stages(folder, first=None, second=None, third=None)
    for stage, text in zip(CHAIN, written, strict=True):
        assert re.findall("Running stage '(.+)'", text) == [stage]
    assert len({process for text in written for process in re.findall(r"by \d+", text)}) == 1


def test_a_worker_goes_on_after_a_stage_that_failed(tmp_path: Path) -> None:
    scripts = CHAIN | {"second": f"{ATTEMPTS}if len(tries.read_text()) == 1: raise SystemExit(75)"}
    folder = make_workspace(tmp_path / "stages", scripts, ORDER)
    _, failure, *_ = run_stages(folder, first=None, second=StageError, second_=None, third=None)
    assert failure.startswith("second failed: exit code 75\nRunning stage 'second':")


def test_the_time_limit_is_each_stages_own(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "stages", CHAIN | {"second": STAY}, ORDER)
    assert run_stages(folder, first=None, second=StageTimeoutError)[1].startswith(
        "second was ended after 1 seconds"
    )
    assert_that_nothing_is_left(folder, [])


def test_what_dvc_refuses_is_told_of_the_right_stage(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "stages", CHAIN, ORDER)
    (folder / "second.py").unlink()
    assert run_stages(folder, first=None, second=StageError)[1].startswith(
        "second failed: exit code 1\nERROR: failed to"
    )


def test_who_works_on_a_stage_is_told(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "stages", CHAIN, ORDER)
    holder = {"pid": os.getpid(), "cmd": "somebody"}
    (folder / ".dvc" / "tmp" / "rwlock").write_text(
        json.dumps({"write": {str(folder / "second.txt"): holder}})
    )
    assert run_stages(folder, first=None, second=BusyError)[1] == f"process {os.getpid()}: somebody"


def test_one_dvc_answers_one_question_after_the_other(fresh: Path, tmp_path: Path) -> None:
    with DvcWorker(fresh) as dvc:
        for _ in range(2):
            with pytest.raises(
                PipelineError, match=r"^dvc metrics nonsense failed: .*invalid choice"
            ):
                dvc.run("metrics", "nonsense")
            (tmp_path / "elsewhere").mkdir(exist_ok=True)
            code, answer, errors = dvc.request("--cd", str(tmp_path / "elsewhere"), "root")
            assert (code, answer) == (253, "")
            assert "you are not inside of a DVC repository" in errors
            assert dvc.run("root") == ".\n"
            append(fresh / "first.py", "print('again')")
            assert list(json.loads(dvc.run("status", "--json"))) == ["first"]


KILL_DVC = """
import psutil
next(p for p in psutil.Process().parents() if "dvc_program" in str(p.cmdline())).kill()
"""


def test_a_dvc_that_dies_fails_its_request_and_the_next_has_a_new_one(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "stages", {"only": KILL_DVC})
    with DvcWorker(folder) as dvc:
        with pytest.raises(StageError, match=r"^only failed: killed by signal 9\n"):
            dvc.reproduce("only", print)
        assert dvc.run("root") == ".\n"
        for process in processes_in(folder):
            process.kill()
        wait_until(lambda: not processes_in(folder))
        assert dvc.run("root") == ".\n"


def test_a_stage_can_neither_read_the_requests_nor_end_the_answer(tmp_path: Path) -> None:
    scripts = {
        "reads": "import sys; print(repr(sys.stdin.read()))",
        "writes": "import sys; sys.stdout.write('no newline\\0{\"code\": 9}')",
    }
    folder = make_workspace(tmp_path / "stages", scripts)
    with DvcWorker(folder) as dvc:
        lines: list[str] = []
        assert dvc.reproduce("reads", lines.append) is Outcome.RAN
        assert "''" in lines
        assert dvc.reproduce("writes", lines.append) is Outcome.RAN
        assert dvc.reproduce("writes", lines.append) is Outcome.SKIPPED


def test_variables_are_set_for_one_request(fresh: Path) -> None:
    append(fresh / "first.py", "#")
    with DvcWorker(fresh) as dvc:
        failing = {"SHELL": "/bin/false"}
        assert dvc.request("repro", "first", environment=failing).code == 255
        assert dvc.reproduce("first", print) is Outcome.RAN


def test_a_cancelled_stage_ends_at_once_with_its_dvc(tmp_path: Path) -> None:
    """DVC waits for the next request after it: only a closed pipe ends it before the grace."""
    folder = make_workspace(tmp_path / "stages", {"only": STAY})
    with CancelScope() as scope, DvcWorker(folder) as dvc:

        def cancel_when_running() -> None:
            wait_for_pids(folder)
            scope.cancel()

        Thread(target=cancel_when_running).start()
        with pytest.raises(RunCancelledError):
            dvc.reproduce("only", print)
    assert not processes_in(folder)
    assert_that_nothing_is_left(folder, [])


def test_a_pool_lends_idle_workers_and_ends_them(fresh: Path) -> None:
    with DvcWorkerPool(fresh) as pool:
        with pool.worker() as first, pool.worker() as second:
            assert first is not second
            assert [dvc.run("root") for dvc in (first, second)] == [".\n"] * 2
        with pool.worker() as again:
            assert again in (first, second)
    assert not processes_in(fresh)


def test_what_dvc_said_while_its_lock_file_changed_is_asked_again(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a stage had just ended: its lock file is another one after the first answer."""
    contents = iter([b"old", b"new", b"new", b"new"])
    monkeypatch.setattr(
        "pipeline.repository.dvc_worker.read_if_present", lambda path: next(contents)
    )
    requests = (("status", "--json"), ("root",))
    with DvcWorker(fresh) as dvc:
        assert run_consistently(dvc, *requests, locks=["dvc.lock"]) == ["{}\n", ".\n"]
        assert next(contents, None) is None
        contents = iter([b"old", b"new", b"new", b"new"])
        with pytest.raises(PipelineError, match="unrecognized arguments"):
            run_consistently(dvc, ("status", "--nonsense"), locks=["dvc.lock"])
        assert next(contents, None) is None


def test_how_dvc_was_interrupted_is_not_logged(tmp_path: Path) -> None:
    """It says "ERROR: interrupted by the user", or that it unlocked what was not locked.

    Here it is interrupted while it waits for its lock, after the stage.
    """
    folder = make_workspace(tmp_path / "waiting", {"only": STAY})
    lines: list[str] = []
    with CancelScope() as scope, DvcWorker(folder) as dvc, ThreadPoolExecutor() as pool:
        work = pool.submit(copy_context().run, dvc.reproduce, "only", lines.append)
        processes = wait_for_pids(folder)
        with closing(zc.lockfile.LockFile(str(folder / ".dvc" / "tmp" / "lock"))):
            (folder / "go").touch()
            wait_until(lambda: not any(process.is_running() for process in processes))
            time.sleep(2)  # it waits for the lock by now
            scope.cancel()
            assert isinstance(work.exception(), RunCancelledError)
    assert lines == ["Running stage 'only':", "> python only.py"]
