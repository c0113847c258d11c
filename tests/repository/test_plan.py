"""The plan of a workspace, compared with what a real DVC then does."""

import json
import shutil
from pathlib import Path

import pytest
from toy import CHAIN, ORDER, append, execute, make_workspace

from pipeline.errors import PipelineError
from pipeline.repository.dvc_output import Outcome, parse_outcomes
from pipeline.repository.dvc_worker import DvcWorker
from pipeline.repository.graph import WorkspaceStatus, read_status
from pipeline.repository.plan import Action, PlannedStage, describe, plan, to_json


def make_plan(folder: Path) -> dict[str, tuple[Action, tuple[str, ...]]]:
    before = execute(folder, "git", "status", "--porcelain")
    with DvcWorker(folder) as dvc:
        view = read_status(dvc)
        steps = plan(dvc, view.graph, view)
    assert execute(folder, "git", "status", "--porcelain") == before, "a plan changes nothing"
    return {step.name: (step.action, step.reasons) for step in steps}


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


def test_a_plan_outside_git_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path / "bare", {"only": ""})
    shutil.rmtree(folder / ".git")
    execute(folder, "dvc", "config", "core.no_scm", "true")
    with (
        DvcWorker(folder) as dvc,
        pytest.raises(PipelineError, match=r"^git ls-files .* failed: not a git repository"),
    ):
        plan(dvc, {}, WorkspaceStatus({}, {"only": []}))


def test_a_plan_is_shown_as_lines_and_as_json() -> None:
    stages = [
        PlannedStage("fetch", Action.SKIP, ("unchanged",)),
        PlannedStage("preprocess", Action.RUN, ("params.yaml preprocess.seed 1 → 2", "x deleted")),
    ]
    assert describe(stages).splitlines() == [
        "fetch       skip     unchanged",
        "preprocess  run      params.yaml preprocess.seed 1 → 2; x deleted",
    ]
    assert json.loads(to_json(stages))[1] == {
        "stage": "preprocess",
        "action": "run",
        "reasons": ["params.yaml preprocess.seed 1 → 2", "x deleted"],
    }
