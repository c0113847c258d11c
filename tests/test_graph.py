"""What DVC says, of a real DVC: its wording is the contract that graph.py rests on."""

import json
import os
import re
import shutil
from pathlib import Path

import psutil
import pytest
from toy import ATTEMPTS, STAY, assert_that_nothing_is_left, commit_all, execute, make_workspace

from pipeline.errors import PipelineError
from pipeline.graph import (
    Action,
    BusyError,
    Chain,
    Outcome,
    StageError,
    StageTimeoutError,
    View,
    ask_in_peace,
    chain_up,
    dvc_in,
    look,
    parse_dot,
    parse_outcomes,
    plan,
    read_settings,
    upstream,
)
from pipeline.supervisor import Lifeline

CHAIN = {"first": "", "second": "", "third": ""}
ORDER = {"second": ["first"], "third": ["second"]}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of three stages in a row, with a parameter, everything run; changes are undone by `fresh`."""
    folder = make_workspace(tmp_path_factory.mktemp("chain"), CHAIN, ORDER)
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(
        text.replace("    deps:\n    - second.py", "    params: [scale]\n    deps:\n    - second.py")
    )
    (folder / "params.yaml").write_text("scale: {width: 3, deep: {height: 4}}\n")
    execute(folder, "dvc", "repro")
    commit_all(folder)
    return folder


@pytest.fixture
def fresh(chain: Path) -> Path:
    execute(chain, "git", "checkout", "--quiet", ".")
    execute(chain, "dvc", "checkout", "--quiet")
    return chain


def make_plan(folder: Path) -> dict[str, tuple[Action, tuple[str, ...]]]:
    before = execute(folder, "git", "status", "--porcelain")
    with dvc_in(folder) as dvc:
        view = look(dvc)
        steps = plan(dvc, view.graph, view)
    assert execute(folder, "git", "status", "--porcelain") == before, "a plan changes nothing"
    return {step.stage: (step.action, step.reasons) for step in steps}


def run(folder: Path, stage: str) -> tuple[Outcome, list[str]]:
    lines: list[str] = []
    with Lifeline() as lifeline:
        return Chain(folder, [stage], lifeline).reproduce(stage, lines.append), lines


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


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


def test_the_graph_is_that_of_dvc_yaml(fresh: Path) -> None:
    with dvc_in(fresh) as dvc:
        view = look(dvc)
    assert list(view.graph.items()) == [("first", set()), ("second", {"first"}), ("third", {"second"})]
    assert view.stale == {}
    assert view.cache == fresh / ".dvc" / "cache"


def test_parts_of_a_graph() -> None:
    graph = parse_dot('strict digraph {\n"a";\n"b@x";\n"c";\n"a" -> "b@x";\n"a" -> "c";\n}\n')
    assert graph == {"a": set(), "b@x": {"a"}, "c": {"a"}}
    assert list(upstream(graph, ["c"])) == ["a", "c"]
    with pytest.raises(PipelineError, match="has no stage d, e; it has a, b@x, c"):
        upstream(graph, ["d", "a", "e"])


def test_a_plan_with_nothing_to_do(fresh: Path) -> None:
    assert make_plan(fresh) == {stage: (Action.SKIP, ("unchanged",)) for stage in CHAIN}


def test_a_plan_says_what_runs_and_why(fresh: Path) -> None:
    (fresh / "params.yaml").write_text("scale: {width: 5, deep: {height: 4}}\n")
    assert make_plan(fresh) == {
        "first": (Action.SKIP, ("unchanged",)),
        "second": (Action.RUN, ("params.yaml scale.width 3 → 5",)),
        "third": (Action.FOLLOW, ("follows second",)),
    }


def test_a_plan_is_what_dvc_then_does(fresh: Path) -> None:
    """A change is run, then undone: the plan knows that its way back is in the run cache."""
    append(fresh / "second.py", "Path('second.txt').write_text('other')\n")
    execute(fresh, "dvc", "repro")
    execute(fresh, "git", "checkout", "--quiet", "second.py")
    steps = make_plan(fresh)
    assert steps == {
        "first": (Action.SKIP, ("unchanged",)),
        "second": (Action.RESTORE, ("second.py modified",)),
        "third": (Action.RESTORE, ("follows second",)),
    }
    assert dict(parse_outcomes(execute(fresh, "dvc", "repro"))) == {
        "first": Outcome.SKIPPED,
        "second": Outcome.RESTORED,
        "third": Outcome.RESTORED,
    }


def test_a_lost_output_comes_back_without_touching_what_follows(fresh: Path) -> None:
    (fresh / "second.txt").unlink()
    steps = make_plan(fresh)
    assert steps["second"] == (Action.RESTORE, ("second.txt deleted",))
    assert steps["third"][0] is Action.SKIP
    said = dict(parse_outcomes(execute(fresh, "dvc", "repro")))
    assert (said["second"], said["third"]) == (Outcome.RESTORED, Outcome.SKIPPED)


def test_a_plan_of_what_never_ran(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "new", CHAIN, ORDER)
    assert make_plan(folder) == {
        "first": (Action.RUN, ("not in dvc.lock yet",)),
        "second": (Action.FOLLOW, ("not in dvc.lock yet", "follows first")),
        "third": (Action.FOLLOW, ("not in dvc.lock yet", "follows second")),
    }


def test_every_kind_of_change_is_named(fresh: Path) -> None:
    (fresh / "params.yaml").write_text("scale: {width: 3, deep: {depth: 1}}\n")
    text = (fresh / "dvc.yaml").read_text()
    (fresh / "dvc.yaml").write_text(text.replace("python second.py", "python -u second.py"))
    append(fresh / "second.py", "#")
    assert make_plan(fresh)["second"][1] == (
        "second.py modified",
        "params.yaml scale.deep.depth unset → 1",
        "params.yaml scale.deep.height 4 → unset",
        "changed command",
    )


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


@pytest.mark.parametrize("code", [2, 75])
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


def test_rows_of_a_graph_run_at_once() -> None:
    graph = parse_dot('"a";\n"a" -> "b";\n"a" -> "c";\n"b" -> "d";\n"c" -> "d";\n"d" -> "e";\n"a" -> "e";\n"f";\n')
    assert sorted(chain_up(graph, graph)) == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]
    line = {"a": set(), "b": {"a"}, "c": {"a", "b"}}
    assert chain_up(line, line) == [["a", "b", "c"]]
    assert chain_up(line, ["a", "c"]) == [["a", "c"]]
    assert chain_up(line, []) == []


SHOW_DVC = "import psutil; print('by', next(p.pid for p in psutil.Process().parents() if 'dvc' in p.cmdline()))"


def run_chain(folder: Path, **steps: type[Exception] | None) -> list[str]:
    """Bring the stages up to date one after the other; return the lines of each, or the message of what is raised."""
    written = []
    with Lifeline() as lifeline:
        chain = Chain(folder, list(CHAIN), lifeline)
        for name, error in steps.items():
            stage, lines = name.rstrip("_"), list[str]()
            if error:
                with pytest.raises(error) as raised:
                    chain.reproduce(stage, lines.append, 1 if error is StageTimeoutError else None)
                written.append(str(raised.value))
            else:
                assert chain.reproduce(stage, lines.append) is Outcome.RAN
                written.append("\n".join(lines))
    return written


def test_one_dvc_process_does_a_row(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "row", dict.fromkeys(CHAIN, SHOW_DVC), ORDER)
    written = run_chain(folder, first=None, second=None, third=None)
    for stage, text in zip(CHAIN, written, strict=True):
        assert re.findall("Running stage '(.+)'", text) == [stage]
    assert len({process for text in written for process in re.findall(r"by \d+", text)}) == 1


def test_a_row_goes_on_from_the_stage_that_failed(tmp_path: Path) -> None:
    scripts = CHAIN | {"second": f"{ATTEMPTS}if len(tries.read_text()) == 1: raise SystemExit(75)"}
    folder = make_workspace(tmp_path / "row", scripts, ORDER)
    _, failure, *_ = run_chain(folder, first=None, second=StageError, second_=None, third=None)
    assert failure.startswith("second failed: exit code 75\nRunning stage 'second':")


def test_the_time_limit_of_a_row_is_each_stages_own(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "row", CHAIN | {"second": STAY}, ORDER)
    assert run_chain(folder, first=None, second=StageTimeoutError)[1].startswith("second was ended after 1 seconds")
    assert_that_nothing_is_left(folder, [])


def test_what_dvc_refuses_of_a_row_is_told_of_the_right_stage(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "row", CHAIN, ORDER)
    (folder / "second.py").unlink()
    assert run_chain(folder, first=None, second=StageError)[1].startswith(
        "second failed: exit code 1\nERROR: failed to"
    )


def test_who_works_on_a_stage_of_a_row_is_told_of_the_right_stage(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "row", CHAIN, ORDER)
    holder = {"pid": os.getpid(), "cmd": "somebody"}
    (folder / ".dvc" / "tmp" / "rwlock").write_text(json.dumps({"write": {str(folder / "second.txt"): holder}}))
    assert run_chain(folder, first=None, second=BusyError)[1] == f"process {os.getpid()}: somebody"


def test_settings_are_the_meta_of_dvc_yaml(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "meta", {"only": ""}, timeout=3, owner="someone")
    assert read_settings(folder, "only").timeout == 3
    assert read_settings(folder, "only@variant").retries == 3
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(text.replace("timeout: 3", "timeout: -3"))
    with pytest.raises(PipelineError, match=r"dvc.yaml: stages.only.meta.timeout: .* greater than 0, got -3"):
        read_settings(folder, "only")


def test_no_graph_here_is_one_line(tmp_path: Path) -> None:
    refusal = re.escape(f"{tmp_path} holds no dvc.yaml; run from the folder that does")
    with dvc_in(tmp_path) as dvc, pytest.raises(PipelineError, match=refusal):
        look(dvc)


def test_what_dvc_cannot_read_is_one_line(fresh: Path) -> None:
    (fresh / "dvc.yaml").write_text("stages: [")
    with dvc_in(fresh) as dvc, pytest.raises(PipelineError, match=r"^dvc dag --dot failed: .*dvc.yaml.*$") as failure:
        look(dvc)
    assert "\n" not in str(failure.value)


def test_one_dvc_answers_one_question_after_the_other(fresh: Path, tmp_path: Path) -> None:
    with dvc_in(fresh) as dvc:
        for _ in range(2):
            with pytest.raises(PipelineError, match=r"^dvc metrics nonsense failed: .*invalid choice"):
                dvc.ask("metrics", "nonsense")
            (tmp_path / "elsewhere").mkdir(exist_ok=True)
            code, answer, errors = dvc.try_out("--cd", str(tmp_path / "elsewhere"), "root")
            assert (code, answer) == (253, "")
            assert "you are not inside of a DVC repository" in errors
            assert dvc.ask("root") == ".\n"
            append(fresh / "first.py", "print('again')")
            assert list(json.loads(dvc.ask("status", "--json"))) == ["first"]


def test_a_dvc_that_has_died_is_one_line(fresh: Path) -> None:
    with dvc_in(fresh) as dvc:
        dvc.ask("root")
        psutil.Process(dvc.process.pid).kill()
        for _ in range(2):
            with pytest.raises(PipelineError, match=r"^dvc root failed: it gave no reason$"):
                dvc.ask("root")


def test_a_plan_outside_git_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "bare", {"only": ""})
    shutil.rmtree(folder / ".git")
    execute(folder, "dvc", "config", "core.no_scm", "true")
    with dvc_in(folder) as dvc, pytest.raises(PipelineError, match=r"^git ls-files .* failed: not a git repository"):
        plan(dvc, {}, View({}, {"only": []}, folder))


def test_what_dvc_said_while_its_lock_file_changed_is_asked_again(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a stage had just ended: its lock file is another one after the first answer."""
    contents = iter([b"old", b"new", b"new", b"new"])
    monkeypatch.setattr("pipeline.graph.read", lambda path: next(contents))
    assert ask_in_peace(fresh, ("status", "--json"), ("root",)) == ["{}\n", ".\n"]
    assert next(contents, None) is None
    contents = iter([b"old", b"new", b"new", b"new"])
    with pytest.raises(PipelineError, match="unrecognized arguments"):
        ask_in_peace(fresh, ("status", "--nonsense"))
    assert next(contents, None) is None
